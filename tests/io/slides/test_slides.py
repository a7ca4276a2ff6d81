"""The resampling law and what each format says about itself."""

from __future__ import annotations

import gc
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.io.slides.slide_writers import (
    DISC_RADIUS_PX,
    DISCS,
    MPP,
    SHAPE,
    WRITERS,
    write_ome_tiff,
    write_ome_zarr,
    write_tiff,
)
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.io.slides.open import Slide, SlideSource, describe, open_slide, read_overview, slide_name
from wsiproc.io.slides.pixels.resample import choose_level, level_downsample, mean_factor
from wsiproc.io.slides.pyramid import PyramidSlide
from wsiproc.io.slides.readers.openslide import AlignedLevel, OpenSlideLevel, flatten, read_openslide_metadata
from wsiproc.io.slides.readers.tiff import TiffLevel

Picture = npt.NDArray[np.uint8]

# (kind, reader): every reader, and OpenSlide also where the tiles could be decoded directly.
READERS = [(kind, "auto") for kind in WRITERS] + [(kind, "openslide") for kind in ("tiff", "odd-factor-tiff")]
# Finer than level 0, exact, a hair beside a level, whole factors without a level, anything.
MPPS = st.one_of(
    st.sampled_from([0.25, 0.49, 0.5, 0.501, 0.85, 0.9999, 1.0, 1.5, 2.0, 2.4, 3.9, 4.0, 5.0, 12.0]),
    st.floats(0.3, 8.0),
)


def open_kind(slide_paths: dict[str, Path], kind: str, reader: str) -> Slide:
    return SlideSource(slide_paths[kind], MPP if kind == "png" else None, reader).open()  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=READERS, ids=lambda pair: "-".join(pair))
def slide(request: pytest.FixtureRequest, slide_paths: dict[str, Path]) -> Iterator[Slide]:
    with open_kind(slide_paths, *request.param) as slide:
        yield slide


@settings(max_examples=40, deadline=None)
@given(mpp=MPPS, data=st.data())
def test_cropping_a_large_box_equals_reading_the_small_one(slide: Slide, mpp: float, data: st.DataObject) -> None:
    h, w = grid_shape(slide.shape, slide.mpp, mpp)
    small = Box(
        data.draw(st.integers(-20, h)),
        data.draw(st.integers(-20, w)),
        data.draw(st.integers(1, 70)),
        data.draw(st.integers(1, 70)),
    )
    large = Box(small.y - data.draw(st.integers(0, 90)), small.x - data.draw(st.integers(0, 90)), 170, 170)
    cropped = slide.read(large, mpp)[small.relative_to(large).slices]
    assert np.array_equal(cropped, slide.read(small, mpp))


@settings(max_examples=15, deadline=None)
@given(mpp=st.floats(0.3, 8.0))
def test_discs_lie_where_they_are_within_a_tenth_of_a_pixel(slide: Slide, mpp: float) -> None:
    h, w = grid_shape(slide.shape, slide.mpp, mpp)
    scale_y, scale_x = SHAPE[0] / h, SHAPE[1] / w
    reach = int(DISC_RADIUS_PX / min(scale_y, scale_x)) + 4
    for cy, cx in DISCS:
        box = Box(int(cy / scale_y) - reach, int(cx / scale_x) - reach, 2 * reach + 1, 2 * reach + 1)
        darkness = 255.0 - slide.read(box, mpp)[..., 2]
        y, x = np.mgrid[box.y : box.y1, box.x : box.x1] + 0.5
        found = ((y * darkness).sum() * scale_y, (x * darkness).sum() * scale_x) / darkness.sum()
        # OpenSlide can only be off by its own rounding of a place to whole level-0 px.
        off = 0.1 * max(1.0, scale_y) + (0.5 if is_aligned(slide) else 0.0)
        assert np.abs(found - np.array([cy, cx])).max() < off


def is_aligned(slide: Slide) -> bool:
    assert isinstance(slide, PyramidSlide)
    return any(isinstance(level, AlignedLevel) for level in slide.pyramid)


def test_the_slides_own_resolution_is_a_plain_copy(slide: Slide, picture: Picture) -> None:
    assert slide.shape == SHAPE
    assert slide.mpp == pytest.approx(MPP)
    assert np.array_equal(slide.read(Box(0, 0, *SHAPE), slide.mpp), picture)


def test_outside_the_slide_is_white(slide: Slide, picture: Picture) -> None:
    around = slide.read(Box(-5, -7, SHAPE[0] + 11, SHAPE[1] + 15), slide.mpp)
    assert np.array_equal(around[5:-6, 7:-8], picture)
    around[5:-6, 7:-8] = 255
    assert (around == 255).all()
    assert (slide.read(Box(10_000, 10_000, 3, 4), 1.0) == 255).all()


def test_a_whole_factor_is_the_mean_of_the_pixels(slide_paths: dict[str, Path]) -> None:
    even = (slice(0, 600), slice(0, 900))
    one = open_kind(slide_paths, "one-level-tiff", "auto")
    means = one.read(Box(0, 0, SHAPE[0] // 3, SHAPE[1] // 3), MPP * 3)
    blocks = one.read(Box(0, 0, *SHAPE), MPP)[even].reshape(200, 3, 300, 3, 3).mean(axis=(1, 3))
    # The grid of 701 ÷ 3 rows is rounded, so the places drift by a fraction of a pixel: compare the smooth channel.
    assert np.abs(means[:200, :300, 1] - blocks[..., 1]).max() <= 1.5


@pytest.mark.parametrize(
    ("kind", "reader", "format_", "level"),
    [
        ("tiff", "auto", "generic-tiff", TiffLevel),
        ("tiff", "openslide", "generic-tiff", AlignedLevel),
        ("one-level-tiff", "openslide", "generic-tiff", OpenSlideLevel),
        ("striped-tiff", "auto", "generic-tiff", TiffLevel),
        ("ome-tiff", "auto", "ome-tiff", TiffLevel),
        ("channel-pages-ome-tiff", "auto", "ome-tiff", TiffLevel),
        ("tiff", "tifffile", "generic-tiff", TiffLevel),
    ],
)
def test_format_and_levels(slide_paths: dict[str, Path], kind: str, reader: str, format_: str, level: type) -> None:
    slide = open_kind(slide_paths, kind, reader)
    assert isinstance(slide, PyramidSlide)
    assert slide.format == format_
    assert isinstance(slide.pyramid[-1], level)
    assert slide.levels in {(1.0,), (1.0, 2.0, 4.0, 8.0)}


def test_levels_of_a_fractional_pyramid(slide_paths: dict[str, Path]) -> None:
    with open_kind(slide_paths, "odd-factor-tiff", "auto") as slide:
        assert slide.levels[1] == pytest.approx(1.7, abs=0.005)


def test_zarr_formats_are_named_by_their_version(slide_paths: dict[str, Path], opened: Callable[..., Slide]) -> None:
    assert opened(slide_paths["ome-zarr-0.4"]).format == "ome-zarr 0.4"
    assert opened(slide_paths["ome-zarr-0.5"]).format == "ome-zarr 0.5"


def test_a_given_mpp_wins_and_is_noted(slide_paths: dict[str, Path], opened: Callable[..., Slide]) -> None:
    slide = opened(slide_paths["tiff"], mpp=0.25)
    assert slide.mpp == 0.25
    assert "0.25 given by the user; in the file: 0.5 × 0.5" in slide.properties["wsiproc.mpp"]


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("a.ome.tif", "a"),
        ("a.ome.zarr", "a"),
        ("case 1.svs", "case 1"),
        ("🔬 slide.tiff", "🔬 slide"),
        ("S-1.2024.ndpi", "S-1.2024"),
        ("no suffix", "no suffix"),
        ("a:b?.svs", "a_b_"),
        (".svs", "slide"),
        (".a.svs", "a"),
        (".work.tif", "work"),
    ],
)
def test_names_are_safe_for_folders(filename: str, name: str) -> None:
    assert slide_name(Path(filename)) == name


def test_a_folder_keeps_its_dots(tmp_path: Path) -> None:
    folder = tmp_path / "case.7"
    folder.mkdir()
    assert slide_name(folder) == "case.7"


@pytest.mark.parametrize("filename", ["🔬 slide.tif", "with space.tif", "ünï.ome.tif"])
def test_any_file_name_opens(tmp_path: Path, picture: Picture, filename: str, opened: Callable[..., Slide]) -> None:
    write = write_ome_tiff if ".ome" in filename else write_tiff
    write(tmp_path / filename, [picture])
    assert opened(tmp_path / filename).shape == SHAPE


def test_a_source_travels_to_a_worker(slide_paths: dict[str, Path]) -> None:
    source = pickle.loads(pickle.dumps(SlideSource(slide_paths["tiff"])))
    with source.open() as slide:
        assert slide.shape == SHAPE


def test_fingerprint_is_of_the_content_not_of_the_place(
    slide_paths: dict[str, Path], tmp_path: Path, opened: Callable[..., Slide]
) -> None:
    original = opened(slide_paths["tiff"]).fingerprint()
    copy = Path(shutil.copy(slide_paths["tiff"], tmp_path / "other name.tif"))
    assert opened(copy).fingerprint() == original
    with copy.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    assert opened(copy).fingerprint() != original


def test_fingerprint_of_a_folder(slide_paths: dict[str, Path], tmp_path: Path, opened: Callable[..., Slide]) -> None:
    original = opened(slide_paths["ome-zarr-0.5"]).fingerprint()
    copy = tmp_path / "copy.zarr"
    shutil.copytree(slide_paths["ome-zarr-0.5"], copy)
    assert opened(copy).fingerprint() == original
    (copy / "extra").write_bytes(b"1")
    assert opened(copy).fingerprint() != original


def test_overview_is_small_and_knows_its_scale(slide_paths: dict[str, Path], opened: Callable[..., Slide]) -> None:
    slide = opened(slide_paths["tiff"])
    seen = read_overview(slide, max_px=100)
    (h, w, _), (mpp_y, mpp_x) = seen.pixels.shape, seen.mpp
    assert max(h, w) <= 100
    assert (h * mpp_y, w * mpp_x) == pytest.approx((SHAPE[0] * MPP, SHAPE[1] * MPP))
    assert read_overview(slide).mpp == pytest.approx((2.0, 2.0), rel=0.01)


def test_description(slide_paths: dict[str, Path], opened: Callable[..., Slide]) -> None:
    facts = describe(opened(slide_paths["tiff"]))
    assert facts["size_px"] == SHAPE
    assert facts["mpp"] == MPP
    assert facts["size_mm"] == pytest.approx((0.3505, 0.4515))
    assert facts["levels"] == (1.0, 2.0, 4.0, 8.0)
    assert facts["file_bytes"] == slide_paths["tiff"].stat().st_size
    assert facts["looks_fluorescent"] is False


@pytest.mark.parametrize(
    ("slide_shape", "level_shape", "nominal", "factor"),
    [
        ((25059, 12605), (12530, 6303), 1.99988, (2.0, 2.0)),
        ((25059, 12605), (1567, 788), 15.9939, (16.0, 16.0)),
        ((2967, 2220), (370, 277), 8.0, (8.0, 8.0)),
        ((1000, 2000), (600, 1200), 1.667, (1000 / 600, 2000 / 1200)),
    ],
)
def test_a_levels_factor_is_the_whole_number_that_was_meant(
    slide_shape: tuple[int, int], level_shape: tuple[int, int], nominal: float, factor: tuple[float, float]
) -> None:
    assert level_downsample(slide_shape, level_shape, nominal) == factor


def test_the_level_is_fine_enough_and_no_finer() -> None:
    levels = [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)]
    scales = {0.5: 0, 1.0: 0, 1.9: 0, 1.9999: 1, 2.0: 1, 3.9: 1, 4.0: 2, 100.0: 2}
    assert {scale: choose_level(levels, (scale, scale)) for scale in scales} == scales
    assert mean_factor((1.0, 1.0), (3.9999, 4.0)) == 4
    assert mean_factor((4.0, 4.0), (7.5, 7.5)) == 1


def bounded(slide: Slide, bounds: Box) -> PyramidSlide:
    """The slide as if only ``bounds`` of its canvas had been scanned, as MRXS files say."""
    assert isinstance(slide, PyramidSlide)
    return PyramidSlide(
        slide.path, "bounded", slide.format, bounds.shape, slide.mpp, None, {}, slide.pyramid, slide.reader,
        (bounds.y, bounds.x),
    )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    y=st.integers(0, 150), x=st.integers(0, 150), h=st.integers(60, 500), w=st.integers(60, 700),
    factor=st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_bounds_move_the_origin(
    slide_paths: dict[str, Path], picture: Picture, y: int, x: int, h: int, w: int, factor: int
) -> None:
    whole = open_kind(slide_paths, "tiff", "auto")  # whose file is open as long as something refers to it
    scanned = bounded(whole, Box(y, x, h, w))
    assert np.array_equal(scanned.read(Box(0, 0, h, w), MPP), picture[y : y + h, x : x + w])
    # The gradient tells where a coarse pixel came from: 255 grey values over 1604 px.
    coarse = scanned.read(Box(0, 0, *grid_shape((h, w), MPP, MPP * factor)), MPP * factor)[..., 1].astype(float)
    rows, cols = np.mgrid[: coarse.shape[0], : coarse.shape[1]] + 0.5
    where = rows * h / coarse.shape[0] + cols * w / coarse.shape[1] + x + y - 1
    assert np.abs(coarse - where / sum(SHAPE) * 255)[1:-1, 1:-1].max() < 1.2


def test_openslide_properties_become_facts() -> None:
    facts = read_openslide_metadata(
        {
            "openslide.vendor": "mirax",
            "openslide.mpp-x": "0.25",
            "openslide.mpp-y": "0.251",
            "openslide.objective-power": "40",
            "openslide.background-color": "FFEEDD",
            "openslide.bounds-x": "1000",
            "openslide.bounds-y": "2000",
            "openslide.bounds-width": "300",
            "openslide.bounds-height": "400",
        }
    )
    assert facts.bounds == Box(2000, 1000, 400, 300)
    assert (facts.mpp, facts.objective, facts.background) == ((0.251, 0.25), 40.0, (255, 238, 221))
    assert read_openslide_metadata({"openslide.mpp-x": "no number"}).mpp is None


def test_transparent_pixels_show_the_background() -> None:
    rgba = np.array([[[10, 20, 30, 255], [0, 0, 0, 0], [100, 100, 100, 128]]], np.uint8)
    assert flatten(rgba, (255, 238, 221)).tolist() == [[[10, 20, 30], [255, 238, 221], [177, 169, 160]]]


def test_a_zarr_without_unit_has_no_mpp(tmp_path: Path, picture: Picture) -> None:
    from wsiproc.errors import ResolutionError

    write_ome_zarr(tmp_path / "a.zarr", [picture], "0.4", unit="")
    with pytest.raises(ResolutionError, match="--mpp"):
        open_slide(tmp_path / "a.zarr")


REAL = [
    "CMU-1-Small-Region.svs",
    "CMU-1-Small-Region.ome.zarr",
    "EAS2_HE1_20x.tif",
    "fluorescence_dapi.ndpi",
    "he_20x.ome.tif",
]


@pytest.mark.parametrize("reader", ["auto", "openslide"])
@pytest.mark.parametrize("filename", REAL)
def test_crop_law_on_real_slides(real_slides: Path, filename: str, reader: str) -> None:
    if reader == "openslide" and ".ome." in filename:
        pytest.skip("OpenSlide does not open it")
    rng = np.random.default_rng(1)
    with open_slide(real_slides / filename, reader=reader) as slide:  # type: ignore[arg-type]
        for mpp in (0.5, 0.8, 1.06, 2.1):
            h, w = grid_shape(slide.shape, slide.mpp, mpp)
            large = Box(h // 3, w // 3, 300, 280)
            pixels = slide.read(large, mpp)
            for _ in range(3):
                y, x, size = int(rng.integers(0, 200)), int(rng.integers(0, 200)), int(rng.integers(10, 80))
                small = slide.read(Box(large.y + y, large.x + x, size, size), mpp)
                assert np.array_equal(small, pixels[y : y + size, x : x + size])


@pytest.mark.parametrize("filename", ["CMU-1-Small-Region.svs", "EAS2_HE1_20x.tif", "no_mpp_jpeg2000.svs"])
def test_direct_decoding_gives_openslides_pixels(
    real_slides: Path, filename: str, opened: Callable[..., Slide]
) -> None:
    box = Box(900, 700, 600, 500)
    direct = opened(real_slides / filename, mpp=0.5)
    assert isinstance(direct, PyramidSlide)
    assert isinstance(direct.pyramid[0], TiffLevel)
    through = opened(real_slides / filename, mpp=0.5, reader="openslide")
    assert np.array_equal(direct.read(box, 0.5), through.read(box, 0.5))


def test_the_same_slide_in_two_formats_is_the_same_picture(real_slides: Path, opened: Callable[..., Slide]) -> None:
    box = Box(1000, 800, 500, 500)
    tiff, zarr = (opened(real_slides / f"CMU-1-Small-Region.{kind}") for kind in ("svs", "ome.zarr"))
    assert np.abs(tiff.read(box, 0.499).astype(int) - zarr.read(box, 0.499)).mean() < 1.0


def test_a_folder_of_dicom_files_is_a_slide(real_slides: Path, tmp_path: Path) -> None:
    shutil.copy(real_slides / "overview_only.dcm", tmp_path)
    with open_slide(tmp_path, mpp=4.0) as slide:
        assert (slide.format, slide.shape) == ("dicom", (812, 1696))
        assert slide.read(Box(100, 100, 50, 50), 4.0).std() > 0


def test_the_readers_of_rare_formats_are_loaded_when_needed() -> None:
    rare = "{'torch', 'dask', 'zarr', 'tifffile', 'tiatoolbox'}"
    code = f"import sys, wsiproc.io.slides.open; print({rare} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize(("kind", "reader"), [("tiff", "auto"), ("tiff", "openslide"), ("png", "auto")])
def test_a_slide_that_nothing_refers_to_closes_its_file(slide_paths: dict[str, Path], kind: str, reader: str) -> None:
    """As when a cache of open slides drops one; a file that is only collected warns of itself."""

    def descriptors() -> list[str]:
        return [file.path for file in psutil.Process().open_files() if Path(file.path) == slide_paths[kind]]

    before = descriptors()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        slide = open_kind(slide_paths, kind, reader)
        slide.read(Box(0, 0, 8, 8), slide.mpp)
        del slide
        gc.collect()
    assert descriptors() == before
    assert [str(warning.message) for warning in warned] == []
