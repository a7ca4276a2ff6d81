from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.psm.drawn_tissue import tissue
from wsiproc.array.stains import Stains
from wsiproc.core.types import UInt8Array
from wsiproc.errors import PlanError, ResolutionError, SettingsError, SlideError
from wsiproc.io.slides.list import list_slides
from wsiproc.psm import tiles as module
from wsiproc.psm.recipe import fit_settings
from wsiproc.psm.tiles import (
    LARGEST_PX,
    SMALLEST_TILE_PX,
    Source,
    Tiles,
    check_sources,
    is_image_folder,
    read_tiles,
    with_distinct_names,
)
from wsiproc.synthetic import write_synthetic_slide

MPP, OD99, WINDOW = 0.5, 1.6, 192


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small slides have many."""
    monkeypatch.setattr(module, "TRAINING_TILE_PX", WINDOW)


def write(folder: Path, **pictures: UInt8Array) -> Path:
    folder.mkdir(exist_ok=True)
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def stained_picture() -> UInt8Array:
    return tissue(side=240)[0]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half tissue, half glass, in a grid of 4 × 4 windows of which the last ones are cut off."""
    path = tmp_path_factory.mktemp("slides") / "half.tif"
    write_synthetic_slide(path, (700, 700), mpp=MPP, seed=3, tissue_fraction=0.5)
    return path


# --- slides ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "most"), [(1, 1), (3, 3), (100, 15)])
def test_a_slide_gives_as_many_windows_of_tissue_as_asked_for(slide: Path, count: int, most: int) -> None:
    found = read_tiles(Source(slide), MPP, count, OD99)
    assert found.name == "half.tif"
    assert min(count, 6) <= len(found.pixels) <= most
    assert {pixels.shape for pixels in found.pixels} == {(WINDOW, WINDOW, 3)}, "no slivers at the edge"
    assert len({pixels.tobytes() for pixels in found.pixels}) == len(found.pixels)
    for pixels in found.pixels:
        assert np.mean(pixels[..., 1] < 215) > 0.4, "mostly tissue"


def test_a_slide_is_read_at_the_resolution_asked_for(slide: Path) -> None:
    coarse = read_tiles(Source(slide), 2 * MPP, 4, OD99)
    assert {pixels.shape for pixels in coarse.pixels} == {(WINDOW, WINDOW, 3)}
    assert len(coarse.pixels) < len(read_tiles(Source(slide), MPP, 100, OD99).pixels)
    told = read_tiles(Source(slide, 0.25), MPP, 4, OD99)
    assert [p.tobytes() for p in told.pixels] == [p.tobytes() for p in coarse.pixels], "the user's word replaces it"


def test_of_a_slide_narrower_than_a_window_all_is_read(tmp_path: Path) -> None:
    path = tmp_path / "core.tif"
    write_synthetic_slide(path, (180, 300), mpp=MPP, seed=1, tissue_fraction=1.0)
    assert [p.shape for p in read_tiles(Source(path), MPP, 4, OD99).pixels] == [(180, 300, 3)]


def test_a_slide_with_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    tiny = tmp_path / "tiny.tif"
    write_synthetic_slide(tiny, (100, 400), mpp=MPP, seed=1, tissue_fraction=1.0)
    with pytest.raises(PlanError, match=rf"tiny\.tif has \(100, 400\) px at 0\.5 µm/px; at least {SMALLEST_TILE_PX}"):
        read_tiles(Source(tiny), MPP, 4, OD99)
    glass = write(tmp_path / "glass", glass=np.full((256, 256, 3), 242, np.uint8)) / "glass.png"
    with pytest.raises(PlanError, match="no tissue found"):
        read_tiles(Source(glass, MPP), MPP, 4, OD99)
    with pytest.raises(SlideError):
        read_tiles(Source(tmp_path / "gone.svs"), MPP, 4, OD99)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_pictures_of_a_folder_are_read_whole_and_in_the_order_of_their_names(
    stained_picture: UInt8Array, tmp_path: Path
) -> None:
    folder = write(tmp_path / "case", b=stained_picture[:200], a=stained_picture[:, :180])
    (folder / "notes.txt").write_text("no picture")
    found = read_tiles(Source(folder, MPP), MPP, 1, OD99)
    assert found.name == "case"
    first, second = found.pixels
    assert np.array_equal(first, stained_picture[:, :180])
    assert np.array_equal(second, stained_picture[:200])


def test_pictures_are_brought_to_the_resolution_of_the_model(stained_picture: UInt8Array, tmp_path: Path) -> None:
    fine = np.kron(stained_picture, np.ones((2, 2, 1), np.uint8))
    (found,) = read_tiles(Source(write(tmp_path / "case", a=fine), 0.25), MPP, 1, OD99).pixels
    assert found.shape == stained_picture.shape
    assert np.abs(found.astype(int) - stained_picture).mean() < 2


def test_small_pictures_are_left_out_and_only_small_ones_refused(stained_picture: UInt8Array, tmp_path: Path) -> None:
    just, below = (stained_picture[:side] for side in (SMALLEST_TILE_PX, SMALLEST_TILE_PX - 1))
    folder = write(tmp_path / "case", a=below, b=just)
    assert [p.shape[0] for p in read_tiles(Source(folder, MPP), MPP, 1, OD99).pixels] == [SMALLEST_TILE_PX]
    (folder / "b.png").unlink()
    with pytest.raises(PlanError, match=rf"case: none of its 1 images has {SMALLEST_TILE_PX} px on a side"):
        read_tiles(Source(folder, MPP), MPP, 1, OD99)


def test_of_very_many_pictures_some_are_chosen_evenly(
    stained_picture: UInt8Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IMAGES", 3)
    shapes = {f"p{i}": stained_picture[: 180 + i] for i in range(7)}
    found = read_tiles(Source(write(tmp_path / "case", **shapes), MPP), MPP, 1, OD99)
    assert [p.shape[0] for p in found.pixels] == [180, 183, 186]


def test_a_picture_the_size_of_a_slide_is_refused_before_it_is_read(
    stained_picture: UInt8Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_PX", 200)
    folder = write(tmp_path / "case", a=stained_picture)
    with pytest.raises(
        PlanError, match=r"a\.png has \(240, 240\) px at 0\.5 µm/px, too many for a tile; pass the file"
    ):
        read_tiles(Source(folder, MPP), MPP, 1, OD99)


def test_pictures_that_do_not_tell_their_resolution_are_refused(stained_picture: UInt8Array, tmp_path: Path) -> None:
    with pytest.raises(ResolutionError, match=r"a\.png"):
        read_tiles(Source(write(tmp_path / "case", a=stained_picture)), MPP, 1, OD99)


def test_fluorescence_is_refused_in_folders_and_as_a_slide(tmp_path: Path) -> None:
    dark = np.zeros((256, 256, 3), np.uint8)
    dark[:64, :64, 2] = 200
    folder = write(tmp_path / "dapi", a=dark)
    for path in (folder, folder / "a.png"):
        with pytest.raises(SlideError, match=r"a\.png looks like fluorescence"):
            read_tiles(Source(path, MPP), MPP, 1, OD99)


def test_a_folder_that_holds_neither_pictures_nor_a_slide_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(SlideError, match="notes"):
        read_tiles(Source(tmp_path / "notes", MPP), MPP, 1, OD99)


# --- what is calibrated ----------------------------------------------------------------------------------------------


def test_stain_and_gain_are_those_of_all_tiles_together(stained_picture: UInt8Array, tmp_path: Path) -> None:
    """A faded section is brought nearer to a strong one; pictures of one folder share one gain."""
    faded = (243 * (stained_picture / 243.0).clip(0.01, 1) ** 0.8).astype(np.uint8)
    strong, pale, both = (
        read_tiles(Source(write(tmp_path / name, **pictures), MPP), MPP, 1, 0.9)
        for name, pictures in (
            ("strong", {"a": stained_picture}),
            ("pale", {"a": faded}),
            ("both", {"a": stained_picture, "b": faded}),
        )
    )
    assert strong.stains.kind == "H&E"
    assert pale.gain > both.gain > strong.gain
    brown = read_tiles(Source(write(tmp_path / "dab", a=tissue(3, 240, "HDAB")[0]), MPP), MPP, 1, OD99)
    assert (brown.stains.kind, brown.gain) == ("H-DAB", 1.0)


@settings(max_examples=20)
@given(st.tuples(*[st.floats(200, 250)] * 3), st.floats(0.7, 1.5))
def test_density_is_beer_and_lambert_times_the_gain(white: tuple[float, float, float], gain: float) -> None:
    levels = Tiles("a", (), Stains(white=white), gain).density
    assert levels.shape == (256, 3)
    assert levels[1:200] == pytest.approx(gain * np.log10(np.array(white) / np.arange(1, 200)[:, None]), abs=1e-5)
    assert (np.diff(levels, axis=0) <= 0).all()
    assert not levels[251:].any(), "nothing is paler than glass"
    assert np.isfinite(levels).all(), "black too"


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["slides/a.svs", "slides/./a.svs", "other/../slides/a.svs", "slides/a.svs/"])
def test_a_source_has_its_name_however_its_path_is_written(written: str) -> None:
    assert Source(Path(written)).name == "a.svs"


def test_the_working_folder_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "case").mkdir()
    monkeypatch.chdir(tmp_path / "case")
    assert Source(Path()).name == "case"


def test_missing_and_doubled_sources_are_refused(tmp_path: Path) -> None:
    for folder in ("one/case", "two/case", "two/other"):
        (tmp_path / folder).mkdir(parents=True)
    one, two, other = (Source(tmp_path / folder) for folder in ("one/case", "two/case", "two/other"))
    check_sources([one, other])
    with pytest.raises(SettingsError, match="nothing to train on"):
        check_sources([])
    with pytest.raises(SettingsError, match="case is given twice"):
        check_sources([one, other, two])
    check_sources(with_distinct_names([one, other, two]))
    with pytest.raises(SettingsError, match="gone: there is no such slide or folder"):
        check_sources([one, Source(tmp_path / "gone")])


# --- which sources are meant ------------------------------------------------------------------------------------------


def white(path: Path, side: int = 8, width: int = 8) -> Path:
    """A picture, small as a file; a TIFF where its name is a scanner's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if path.suffix == ".png" else "TIFF"
    Image.new("1", (width, side), 1).save(path, kind, compression=None if kind == "PNG" else "group4")
    return path


def test_a_folder_holds_slides_or_pictures_of_one(tmp_path: Path) -> None:
    white(tmp_path / "png" / "a.png")
    white(tmp_path / "small" / "a.tif")
    white(tmp_path / "large" / "a.tif")
    white(tmp_path / "large" / "b.tif", 4, LARGEST_PX + 1)
    white(tmp_path / "scanner" / "preview.png")
    (tmp_path / "scanner" / "a.svs").write_bytes(b"II*\0")
    (tmp_path / "empty").mkdir()
    assert {folder.name for folder in tmp_path.iterdir() if is_image_folder(folder)} == {"png", "small"}


def test_sources_are_named_as_those_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders, patterns and lists; equal names told apart, a slide that is given twice taken once."""
    one, two = white(tmp_path / "case 1" / "HE.svs"), white(tmp_path / "case 2" / "HE.svs")
    tile = white(tmp_path / "tiles" / "a.png")
    white(tmp_path / "model" / "curves.png")
    (tmp_path / "model" / "model.toml").touch()
    (tmp_path / "list.txt").write_text("case 1/HE.svs\ncase ?/*.svs\n")
    monkeypatch.chdir(tmp_path)

    def named(*given: str) -> dict[str, Path]:
        paths = list_slides(given, 0.25, tmp_path / "out", is_image_folder).slides
        options = {"mpp": 0.25, "quick": False, "base": None, "seed": None, "device": "cpu"}
        sources = fit_settings(None, paths, tmp_path / "out", **options).sources  # type: ignore[arg-type]
        return {source.name: source.path for source in sources}

    both = {"case 1_HE.svs": one, "case 2_HE.svs": two}
    assert named("@list.txt") == named("case */HE.svs") == both
    assert named(".") == both | {"tiles": tile.parent}
    assert named("tiles") == {"tiles": tile.parent}


def test_a_settings_file_names_sources_in_the_same_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = white(tmp_path / "case 1" / "HE.svs"), white(tmp_path / "case 2" / "HE.svs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fit.toml").write_text('sources = [{ path = "case */*.svs", dab_outside_nuclei = true }]')
    options = {"mpp": None, "quick": False, "base": None, "seed": None, "device": "cpu"}
    found = fit_settings(tmp_path / "fit.toml", [], tmp_path / "out", **options)  # type: ignore[arg-type]
    assert [(source.path, source.dab_outside_nuclei) for source in found.sources] == [(one, True), (two, True)]
