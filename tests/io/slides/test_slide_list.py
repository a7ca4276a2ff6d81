"""Which slides a call means: files, folders, patterns, lists; each once, and what is left out is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wsiproc
from tests.io.slides.slide_writers import write_dicom_header
from wsiproc.errors import SettingsError
from wsiproc.io.slides.list import list_slides

TIFF = b"II*\0" + bytes(200)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Two cases with a slide of the same name, a third file, and what lies about."""
    for name in ("case 1/HE.tif", "case 2/HE.tif", "a.svs"):
        path = tmp_path / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TIFF + name.encode())
    (tmp_path / "slides" / "notes.txt").write_text("x")
    (tmp_path / "slides" / "preview.png").write_bytes(b"\x89PNG")
    (tmp_path / "slides" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "slides" / "._a.svs").write_bytes(b"x")
    return tmp_path / "slides"


def names(folder: Path, found: tuple[Path, ...]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found]


def test_a_folder_stands_for_the_slides_in_it_and_says_what_else_is_there(slides: Path) -> None:
    found = list_slides([slides])
    assert names(slides, found.slides) == ["a.svs", "case 1/HE.tif", "case 2/HE.tif"]
    assert found.notes == (f"{slides}: 2 files are not recognised as slides: notes.txt, preview.png",)
    assert "preview.png" in names(slides, list_slides([slides], mpp=0.25).slides)


def test_a_slide_without_a_name_for_it_is_known_by_its_first_bytes(slides: Path) -> None:
    (slides / "dataset_1.dat").write_bytes(TIFF)
    assert "dataset_1.dat" in names(slides, list_slides([slides]).slides)


def test_what_holds_the_pixels_of_a_slide_is_no_slide(slides: Path) -> None:
    (slides / "m.mrxs").write_bytes(b"x")
    (slides / "m").mkdir()
    (slides / "m" / "Data0000.dat").write_bytes(TIFF)
    (slides / "z.ome.zarr" / "0").mkdir(parents=True)
    (slides / "z.ome.zarr" / ".zattrs").write_text("{}")
    assert names(slides, list_slides([slides]).slides) == [
        "a.svs", "case 1/HE.tif", "case 2/HE.tif", "m.mrxs", "z.ome.zarr",
    ]  # fmt: skip


def test_results_among_the_slides_are_not_taken_for_slides(slides: Path) -> None:
    for out in ("results", "earlier"):
        (slides / out / "a" / "slide.ome.zarr").mkdir(parents=True)
        (slides / out / "a" / "slide.ome.zarr" / "zarr.json").write_text("{}")
        (slides / out / "a" / "run.json").write_text("{}")
    (slides / "results" / "cohort.csv").write_text("x")
    found = list_slides([slides], out=slides / "results")
    assert names(slides, found.slides) == ["a.svs", "case 1/HE.tif", "case 2/HE.tif"]
    globbed = list_slides(sorted(slides.iterdir()), out=slides / "results")
    assert not [path for path in globbed.slides if "results" in path.parts or "earlier" in path.parts]
    assert sum("results of wsiproc" in note for note in globbed.notes) == 2


def test_results_may_lie_beside_their_slides(slides: Path) -> None:
    (slides / "a").mkdir()
    for done in ("", "{}"):
        (slides / "a" / "run.json").write_text(done)
        (slides / "cohort.csv").write_text(done)
        found = list_slides([slides], out=slides)
        assert names(slides, found.slides) == ["a.svs", "case 1/HE.tif", "case 2/HE.tif"]


def test_a_pattern_that_no_shell_expanded(slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(slides)
    assert names(slides, list_slides(["case */*.tif"]).slides) == ["case 1/HE.tif", "case 2/HE.tif"]
    assert names(slides, list_slides([f"{slides}/**/*.tif"]).slides) == ["case 1/HE.tif", "case 2/HE.tif"]
    assert list_slides(["*.ndpi"]).slides == (slides / "*.ndpi",)
    (slides / "[1].tif").write_bytes(TIFF)
    assert names(slides, list_slides(["[1].tif"]).slides) == ["[1].tif"], "a name comes before a pattern"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_names_a_slide_a_line_from_where_it_lies(slides: Path, encoding: str) -> None:
    text = f'# cases of May\r\ncase 1/HE.tif\r\n\r\n"case 2/HE.tif"\r\n{slides}/a.svs\r\n  ../slides/case 1/*.tif \r\n'
    (slides / "list.txt").write_bytes(text.encode(encoding))
    found = list_slides([f"@{slides / 'list.txt'}"])
    assert names(slides, found.slides) == ["case 1/HE.tif", "case 2/HE.tif", "a.svs"]


@pytest.mark.parametrize(
    ("content", "said"), [(b"# nothing\n", "names no slide"), (b"\xff\xfe\x00", "UTF-8"), (None, "cannot be read")]
)
def test_a_list_that_is_none(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        list_slides([f"@{tmp_path / 'list.txt'}"])


def test_the_same_slide_by_several_ways_is_taken_once_and_said(slides: Path) -> None:
    (slides / "link.svs").symlink_to(slides / "a.svs")
    os.link(slides / "a.svs", slides / "hard.svs")
    given: list[Path | str] = [slides / "a.svs", slides / "link.svs", f"{slides}/case 1/../a.svs", slides / "hard.svs"]
    found = list_slides(given)
    assert found.slides == (slides / "a.svs",)
    also = f"{slides / 'hard.svs'}, {slides / 'link.svs'}"
    assert found.notes == (f"{slides / 'a.svs'}: given 4 times, also as {also}; used once",)


def test_dicom_files_of_one_slide_are_one_slide(tmp_path: Path) -> None:
    for name in ("label", "level 0", "level 1", "thumbnail"):
        write_dicom_header(tmp_path / "one" / f"{name}.dcm", "1.2.3")
    for name, series in (("a", "1.2.4"), ("b", "1.2.4"), ("c", "1.2.5")):
        write_dicom_header(tmp_path / "two" / f"{name}.dcm", series)
    found = list_slides(sorted((tmp_path / "one").iterdir()))
    assert names(tmp_path, found.slides) == ["one/label.dcm"]
    assert found.notes == (f"{tmp_path / 'one' / 'label.dcm'}: 4 DICOM files of one slide; used once",)
    assert list_slides([tmp_path / "one"]).slides == (tmp_path / "one",)
    assert names(tmp_path, list_slides([tmp_path / "two"]).slides) == ["two/a.dcm", "two/c.dcm"]
    assert len(list_slides([tmp_path / "one", tmp_path / "one" / "level 0.dcm"]).slides) == 1


def test_a_thousand_names_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.svs" for number in range(1000)]
    for path in paths:
        path.write_bytes(TIFF)
    assert list_slides([*paths, *paths]).slides == tuple(paths)


def test_what_is_not_there_stays_and_a_loop_of_folders_ends(slides: Path) -> None:
    (slides / "loop").symlink_to(slides)
    assert names(slides, list_slides([slides, slides / "gone.svs"]).slides) == [
        "a.svs", "case 1/HE.tif", "case 2/HE.tif", "gone.svs",
    ]  # fmt: skip


@given(st.lists(st.sampled_from(["a.svs", "b.svs", "./a.svs", "x/../b.svs", "gone.svs"]), min_size=1, max_size=8))
def test_every_slide_is_there_once_in_the_order_given(texts: list[str]) -> None:
    plain = [os.path.abspath(text) for text in texts]
    assert [str(path) for path in list_slides(texts).slides] == list(dict.fromkeys(plain))


@pytest.mark.parametrize("given_slides", [None, 5, [None], [["a.svs"]], [float("nan")]])
def test_what_is_no_path_is_refused_with_its_type(given_slides: Any) -> None:
    with pytest.raises(SettingsError, match=r"is not a path: it is of type \w+; give text or a Path"):
        wsiproc.run(given_slides)


def test_paths_may_be_bytes(slides: Path) -> None:
    found = list_slides([os.fsencode(slides / "a.svs")])  # type: ignore[list-item]
    assert found.slides == (slides / "a.svs",)
