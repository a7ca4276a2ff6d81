"""Slides of the same name get folders told apart, which stay theirs whatever comes beside them later."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs import SIX
from wsiproc.errors import OutputError
from wsiproc.io.slides.fingerprint import fingerprint
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.folders import name_folders, output_folder
from wsiproc.pipeline.progress import Outcome
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import write_synthetic_slide


def named(out: Path, *paths: str) -> dict[str, str]:
    """Name of the folder of each slide, by its path; nothing need be there."""
    given_paths = [Path(path) for path in paths]
    return dict(zip(paths, name_folders(given_paths, out), strict=True))


def finish(out: Path, name: str, path: Path | str, content: str = "?") -> None:
    (out / name).mkdir(parents=True)
    (out / name / "run.json").write_text(json.dumps({"slide": {"path": str(path), "fingerprint": content}}))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/s/a.svs", "/s/b.svs"], ["a", "b"]),
        (["/s/case 1/HE.tif", "/s/case 2/HE.tif"], ["case 1_HE", "case 2_HE"]),
        (["/s/1/scans/HE.tif", "/s/2/scans/HE.tif"], ["1_HE", "2_HE"]),
        (["/s/x/1/HE.tif", "/s/y/1/HE.tif", "/s/x/2/HE.tif"], ["x_1_HE", "y_1_HE", "x_2_HE"]),
        (["/s/HE.tif", "/s/old/HE.tif"], ["HE", "old_HE"]),
        (["/s/HE.tif", "/s/HE.svs"], ["HE_tif", "HE_svs"]),
        (["/s/HE.tif", "/s/he.tif"], ["s_HE", "he_%"]),
        (["/s/1/HE.tif", "/s/1_HE.svs", "/s/2/HE.tif"], ["s_1_HE%", "1_HE", "2_HE"]),
    ],
)
def test_names_are_told_apart_by_what_differs(paths: list[str], names: list[str], tmp_path: Path) -> None:
    found = list(named(tmp_path, *paths).values())
    assert len({name.lower() for name in found}) == len(found)
    for name, wanted in zip(found, names, strict=True):
        assert name == wanted or wanted.endswith("%"), found


folders = st.lists(st.sampled_from(["a", "b", "A", "x y", "é"]), max_size=3).map("/".join)
paths = st.lists(st.tuples(folders, st.sampled_from(["HE.tif", "he.tif", "HE.svs", "b.tif", "a_HE.tif"])), max_size=9)


@given(parts=paths, order=st.randoms(use_true_random=False))
def test_any_slides_get_different_names_the_same_in_any_order(
    parts: list[tuple[str, str]], order: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.getbasetemp() / "not there"
    slides = list(dict.fromkeys(f"/s/{folder}/{name}".replace("//", "/") for folder, name in parts))
    found = named(out, *slides)
    assert len({name.casefold() for name in found.values()}) == len(slides)
    shuffled = slides.copy()
    order.shuffle(shuffled)
    assert named(out, *shuffled) == found


@given(first=paths, later=paths)
def test_what_is_finished_stays_where_it_is_whatever_comes_later(
    first: list[tuple[str, str]], later: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("out")
    both = [
        list(dict.fromkeys(f"/s/{folder}/{name}".replace("//", "/") for folder, name in parts))
        for parts in (first, [*first, *later])
    ]
    before = named(out, *both[0])
    for path, name in before.items():
        finish(out, name, path, content=path)
    after = named(out, *both[1])
    assert {path: after[path] for path in before} == before
    assert len({name.casefold() for name in after.values()}) == len(both[1])
    for path in both[1]:  # alone, each is found again, and none takes another's
        assert named(out, path)[path] not in {name for other, name in before.items() if other != path}


def test_a_slide_that_was_moved_finds_its_results_by_content(tmp_path: Path) -> None:
    slide = tmp_path / "new" / "HE.tif"
    slide.parent.mkdir()
    slide.write_bytes(b"tissue")
    finish(tmp_path / "out", "old_HE", "/old/HE.tif", fingerprint(slide))
    finish(tmp_path / "out", "HE", "/other/HE.tif", "something else")
    assert name_folders([slide], tmp_path / "out") == ["old_HE"]


def test_the_same_file_scanned_again_keeps_its_folder(tmp_path: Path) -> None:
    """The results of the file before are then refused or replaced, as ever."""
    finish(tmp_path, "HE", "/s/HE.tif", "before")
    assert named(tmp_path, "/s/HE.tif") == {"/s/HE.tif": "HE"}


def test_long_and_odd_paths_make_names_for_every_system(tmp_path: Path) -> None:
    long = ["/s/" + "x" * 200 + f"/{number}/" + "y" * 200 + ":?\\/HE.tif" for number in range(2)]
    for name in named(tmp_path, *long, "/s/a:b/z.tif", "/s/a?c/z.tif").values():
        assert len(name.encode()) <= 200
        assert not set(name) & set('<>:"/\\|?*')


# --- real runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two slides of the same name."""
    home = tmp_path_factory.mktemp("cases")
    slides = [home / f"case {number}" / "HE.tif" for number in (1, 2)]
    for number, slide in enumerate(slides):
        slide.parent.mkdir()
        write_synthetic_slide(slide, (300, 300 + 50 * number), mpp=0.5, seed=number, tissue_fraction=1.0)
    return slides


def run(slides: list[Path], out: Path) -> dict[str, Outcome]:
    outcomes = run_slides(slides, out, Settings(**SIX))
    return {outcome.path.parent.name: outcome for outcome in outcomes}


def test_a_second_slide_of_the_name_comes_beside_the_first(cases: list[Path], tmp_path: Path) -> None:
    first, second = cases
    alone = run([first], tmp_path)["case 1"]
    assert alone.folder == tmp_path / "HE"
    both = run([second, first], tmp_path)
    assert both["case 1"].status == "already done"
    assert both["case 1"].folder == tmp_path / "HE"
    assert both["case 2"].status == "done"
    assert both["case 2"].folder == tmp_path / "case 2_HE"
    assert both["case 2"].label == str(second)
    for name, path in (("HE", first), ("case 2_HE", second)):
        slide = json.loads((tmp_path / name / "run.json").read_text())["slide"]
        assert (slide["name"], slide["path"]) == (name, str(path))
    assert run([second], tmp_path)["case 2"].status == "already done"
    assert "case 2_HE" in (tmp_path / "cohort.csv").read_text()


def test_unfinished_work_is_gone_on_with_by_its_own_slide_only(
    cases: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wsiproc.pipeline.slide.write_report", stop)
        with pytest.raises(KeyboardInterrupt):
            run([cases[0]], tmp_path)
    both = run(cases, tmp_path)
    assert both["case 1"].folder == tmp_path / "HE"
    assert both["case 1"].run is not None
    assert both["case 1"].run["resumed"] > 0
    assert both["case 2"].folder == tmp_path / "case 2_HE"
    assert both["case 2"].run is not None
    assert both["case 2"].run["resumed"] == 0


def test_a_place_where_no_folder_can_be_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "slide.tif").write_bytes(b"II*")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    refused = {
        "slide.tif": "slide.tif is not a folder",
        "slide.tif/out": "slide.tif is not a folder",
        "loop": "is a link that leads to no folder",
        "gone": "is a link that leads to no folder",
        "x" * 300: "File name too long",
    }
    for name, said in refused.items():
        with pytest.raises(OutputError, match=f"{said}; choose another folder"):
            output_folder(tmp_path / name)
    assert output_folder(tmp_path / "new" / "newer") == tmp_path / "new" / "newer"
