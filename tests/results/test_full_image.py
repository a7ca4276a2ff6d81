"""The slide at full resolution in one OME-Zarr: the same pixels, the same bytes by any workers, halfway or not."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ome_zarr_models
import pytest
import tifffile
import yaozarrs
import zarr

import wsiproc
from tests.results.napari_layers import layers
from wsiproc.array.pyramid import downsample_mean
from wsiproc.core.geometry import Box
from wsiproc.errors import PlanError, SlideError
from wsiproc.io.slides import arrays as slide_pixels
from wsiproc.io.slides.open import SlideSource, open_slide
from wsiproc.io.slides.pyramid import PyramidSlide
from wsiproc.results.export.export import export
from wsiproc.results.export.full_image import write_full_image
from wsiproc.results.result import Result

SHARD = 1024
"""Six shards of the drawn slide."""


def copied(result: Result, target: Path, **options: Any) -> Path:
    labels = result.folder / "slide.ome.zarr/labels"
    write_full_image(result.source(), labels, target, **{"workers": 1, "shard": SHARD} | options)
    return target


def content(folder: Path) -> dict[str, str]:
    """Hash of each file by its place in the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process copies undisturbed."""
    return copied(result, tmp_path_factory.mktemp("whole") / "slide.full.ome.zarr")


def test_it_has_the_slides_own_pixels_and_halves_of_them(whole: Path, drawn_slide: Path) -> None:
    group: Any = zarr.open_group(whole, mode="r")
    finest = np.asarray(group["0"])
    with open_slide(drawn_slide) as slide:
        pixels = slide.read(Box(0, 0, 1400, 2200), 0.25)
    assert np.array_equal(finest, pixels.transpose(2, 0, 1))
    for level in range(1, len(group.attrs["ome"]["multiscales"][0]["datasets"])):
        finest = downsample_mean(finest)
        assert np.array_equal(np.asarray(group[str(level)]), finest), level
    assert group["0"].shards == (3, SHARD, SHARD)
    assert group.attrs["ome"]["multiscales"][0]["name"] == "drawn, 0.25 µm/px"


def test_validators_and_napari_open_it_with_its_labels(whole: Path, result: Result) -> None:
    ome_zarr_models.open_ome_zarr(zarr.open_group(whole, mode="r"))
    yaozarrs.validate_zarr_store(str(whole))
    shown = layers(str(whole))
    (image,) = [layer for layer in shown.values() if layer[2] == "image"]
    assert image[0][0].shape == (3, 1400, 2200)
    labels = {name.rsplit("/")[-1]: layer for name, layer in shown.items() if layer[2] == "labels"}
    assert set(labels) == {"cells", "classes", "tissue"}
    assert np.array_equal(np.asarray(labels["cells"][0][0]), np.asarray(result.labels["cells"].levels[0]))
    # As large as its labels, in µm, so that they lie on one another.
    for data, meta, _ in shown.values():
        assert np.array(data[0].shape[-2:]) * meta["scale"] == pytest.approx((350, 550))


def test_any_number_of_workers_leaves_the_same_bytes(whole: Path, result: Result, tmp_path: Path) -> None:
    assert content(copied(result, tmp_path / "slide.full.ome.zarr", workers=2)) == content(whole)


def test_a_copy_that_was_stopped_goes_on(
    whole: Path, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "slide.full.ome.zarr"
    read: list[Box] = []
    real = PyramidSlide.read

    def noted(self: PyramidSlide, box: Box, mpp: float) -> Any:
        read.append(box)
        return real(self, box, mpp)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(PyramidSlide, "read", noted)
    with pytest.raises(KeyboardInterrupt):
        copied(result, target, on_progress=stop)
    assert not target.exists()
    (unfinished,) = tmp_path.iterdir()
    seen: list[tuple[int, int]] = []
    copied(result, target, on_progress=lambda done, total: seen.append((done, total)))
    assert len(read) == len(set(read)) == 6, "no shard is read twice"
    assert max(box.area for box in read) == SHARD**2, "and no more than a shard at a time"
    assert seen[-1][0] == seen[-1][1]
    assert content(target) == content(whole)
    assert not unfinished.exists()
    # Again: what is there is replaced.
    assert content(copied(result, target)) == content(whole)


def test_what_cannot_be_read_is_white_and_told(
    result: Result, drawn_slide: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "torn.tif"
    torn = bytearray(drawn_slide.read_bytes())
    with tifffile.TiffFile(drawn_slide) as file:
        page = file.pages[0]
        start, count = page.dataoffsets[0], page.databytecounts[0]
    torn[start : start + count] = b"\0" * count
    path.write_bytes(torn)
    source = SlideSource(path, 0.25)
    slide_pixels.opened.cache_clear()
    with caplog.at_level(logging.WARNING):
        write_full_image(
            source, result.folder / "slide.ome.zarr/labels", tmp_path / "a.ome.zarr", workers=1, shard=SHARD
        )
    assert "could not be read and is white" in caplog.text
    assert "torn.tif" in caplog.text
    pixels, good = (np.asarray(zarr.open_group(folder, mode="r")["0"]) for folder in (tmp_path / "a.ome.zarr", whole))
    assert (pixels[:, :512, :512] == 255).all()
    assert np.array_equal(pixels[:, 512:], good[:, 512:])
    assert np.array_equal(pixels[:, :, 512:], good[:, :, 512:])


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(PlanError, match=r"disk: [\d.]+ GB needed, [\d.]+ GB available"):
        copied(result, tmp_path / "slide.full.ome.zarr")
    assert not list(tmp_path.iterdir())


def test_the_export_needs_the_slide(result: Result, whole: Path, tmp_path: Path) -> None:
    (path,) = export(result, ["ome-zarr"], tmp_path)
    pixels, small_shards = (zarr.open_group(folder, mode="r")["0"] for folder in (path, whole))
    assert np.array_equal(np.asarray(pixels), np.asarray(small_shards))
    slide = result.record.slide.model_copy(update={"path": str(tmp_path / "gone.tif")})
    gone = Result(result.folder, result.record.model_copy(update={"slide": slide}))
    with pytest.raises(SlideError, match="is not there"):
        list(export(gone, ["ome-zarr"], tmp_path))


def test_the_overview_says_what_it_is(result: Result) -> None:
    ome: Any = zarr.open_group(wsiproc.open(result.folder).folder / "slide.ome.zarr", mode="r").attrs["ome"]
    assert ome["multiscales"][0]["name"] == "overview, 2 µm/px"
