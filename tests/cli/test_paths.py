"""A path may be written in any way: the real command makes the same bytes of each, wherever it is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.command import CPU, words, wsiproc
from tests.io.slides.slide_writers import write_dicom_header
from wsiproc.cli.main import app
from wsiproc.core.paths import absolute, did_you_mean, make_folder, make_place
from wsiproc.errors import ModelError, OutputError, SettingsError
from wsiproc.pipeline.folders import output_folder
from wsiproc.synthetic import write_synthetic_slide

ODD_NAMES = ("plain", "two words", "é", "e\u0301", "#1", "50%", "a%20b", "who?", "[x]", "~", "@list", "-o", "a'b", "ж")
"""Names of folders that file systems take and programs stumble over."""


def command(*arguments: object) -> int:
    """The real command in this process; its exit code."""
    try:
        app([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.tif"
    write_synthetic_slide(path, (300, 300), mpp=0.5, seed=4, tissue_fraction=1.0)
    return path


@pytest.fixture(scope="module")
def right(tiny: Path) -> bytes:
    """The cells of the slide, by the plainest paths."""
    assert command("run", tiny, "-o", tiny.parent / "right", "--executor", "loop", "-q", *CPU) == 0
    return (tiny.parent / "right" / "tiny" / "cells.parquet").read_bytes()


# --- one path in all its spellings -----------------------------------------------------------------------------------


def _folders(above: Path) -> list[str]:
    """Folders to go into and out of again; out of a link, .. leads elsewhere."""
    return sorted(entry.name for entry in above.iterdir() if entry.is_dir() and not entry.is_symlink())


def spelled(draw: Callable[[st.SearchStrategy[int]], int], path: Path, here: Path) -> str:
    """The path as it might be written by somebody in the folder ``here``."""
    text = os.path.relpath(path, here) if draw(st.integers(0, 1)) else str(path)
    parts = text.split("/")
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(1, len(parts))) if parts[0] == "" else draw(st.integers(0, len(parts)))
        detour = draw(st.integers(0, 2))
        if detour == 0:
            parts.insert(place, ".")
        elif detour == 1 and place > 0:
            parts.insert(place, "")
        else:
            above = Path(here, *parts[:place]) if parts[0] else Path("/", *parts[1:place])
            if above.is_dir() and (inside := _folders(above)):
                parts[place:place] = [inside[draw(st.integers(0, len(inside) - 1))], ".."]
    written = "/".join(parts)
    written = f"./{written}" if written.startswith(("-", "@", "~")) else written
    return written + "/" * draw(st.integers(0, 1))


@st.composite
def layouts(draw: Callable[[st.SearchStrategy[int]], int]) -> tuple[str, str, str, Callable[[Path, Path], str]]:
    """Names of the folders of slide, work and results, and how a path is spelled there."""
    slide, work, out = (ODD_NAMES[draw(st.integers(0, len(ODD_NAMES) - 1))] for _ in range(3))
    return slide, work, out, lambda path, here: spelled(draw, path, here)


@settings(
    max_examples=6,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each example is a run: the first that fails will do
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(layout=layouts())
def test_however_slide_and_results_are_written_the_bytes_are_the_same(
    layout: tuple[str, str, str, Callable[[Path, Path], str]],
    tiny: Path,
    right: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slides, work, out, spell = layout
    home = tmp_path_factory.mktemp("spelled")
    for name in {slides, work, out}:
        (home / name / "inner").mkdir(parents=True)
    os.link(tiny, home / slides / "tiny.tif")
    with monkeypatch.context() as patch:
        patch.chdir(home / work)
        slide = spell(home / slides / "tiny.tif", home / work).rstrip("/")
        target = spell(home / out / "inner", home / work)
        assert command("run", "-q", "--executor", "loop", *CPU, "-o", target, "--", slide) == 0, (slide, target)
        assert (home / out / "inner" / "tiny" / "cells.parquet").read_bytes() == right, (slide, target)
        assert command("check", f"./{os.path.relpath(home / out, home / work)}/inner/../inner") == 0
    assert {path.name for path in home.iterdir()} == {slides, work, out}, "nothing is written elsewhere"


@given(st.lists(st.sampled_from(["a", "b", "..", ".", "", "a b", "é"]), min_size=1, max_size=8))
@example(["", "", "a"])
def test_a_path_is_absolute_and_plain_and_leads_where_the_system_goes(parts: list[str]) -> None:
    text = "/".join(parts) or "."
    found = absolute(text)
    assert found.is_absolute()
    assert str(found) == os.path.abspath(text).replace("//", "/")
    assert absolute(found) == found


def test_dots_are_followed_through_links_and_links_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "store" / "deep")
    assert absolute(tmp_path / "link" / "x.svs") == tmp_path / "link" / "x.svs"
    assert absolute(f"{tmp_path}/link/../x.svs") == tmp_path / "store" / "x.svs"


def test_home_is_known_where_no_shell_saw_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute("~/slides/a.svs") == tmp_path / "slides" / "a.svs"
    assert absolute("~nobody-of-this-name/a.svs") == Path.cwd() / "~nobody-of-this-name" / "a.svs"


@pytest.mark.parametrize(("on_disk", "typed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_composed_otherwise_are_found(tmp_path: Path, on_disk: str, typed: str) -> None:
    folder, name = "Fälle", "é ö.tif"
    there = tmp_path / unicodedata.normalize(on_disk, folder) / unicodedata.normalize(on_disk, name)  # type: ignore[arg-type]
    there.parent.mkdir()
    there.write_bytes(b"x")
    text = tmp_path / unicodedata.normalize(typed, folder) / unicodedata.normalize(typed, name)  # type: ignore[arg-type]
    assert absolute(text) == there
    assert absolute(text.with_name("new.tif")) == there.with_name("new.tif")


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_what_can_be_no_path_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is not a path"):
        absolute(text)
    assert command("run", "a.tif", "-o", "") == 2


@pytest.mark.parametrize("name", ["a\\b", "x.__lock", "\udcff"])
def test_folders_that_results_cannot_be_written_to_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="choose another folder"):
        output_folder(tmp_path / name / "out")


def test_a_misspelt_path_is_answered_with_the_one_that_is_there(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    good = tmp_path / "slides" / "tumour 12.svs"
    good.write_bytes(b"x")
    assert did_you_mean(tmp_path / "slides" / "tumor 12.svs") == f"; did you mean {good}?"
    assert did_you_mean(tmp_path / "slide" / "tumour 12.svs") == f"; did you mean {good}?"
    assert did_you_mean(tmp_path / "slides" / "else.svs") == ""
    done = wsiproc("run", tiny.with_name("tinny.tif"), "-o", tmp_path / "out")
    assert done.returncode == 2
    missing = tiny.with_name("tinny.tif")
    assert done.stderr == f"Error: {missing}: no such file or folder; did you mean {tiny}?\n"
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


# --- every place where results go ------------------------------------------------------------------------------------

WRITERS: dict[str, tuple[str, ...]] = {
    "run": ("run", "{slide}", "-o", "{place}", "--executor", "loop", *CPU),
    "plan": ("plan", "{slide}", "-o", "{place}", *CPU),
    "export": ("export", "{result}", "-t", "csv", "-o", "{place}"),
    "synth": ("synth", "{place}/drawn.tif", "--height", "64", "--width", "64"),
    "fit": ("fit", "{slide}", "--quick", "-o", "{place}", "--device", "cpu"),
    "benchmark": ("benchmark", "{images}", "--mpp", "0.5", "-m", "classical", "-o", "{place}"),
    "benchmark --csv": ("benchmark", "{images}", "--mpp", "0.5", "-o", "{out}/b", "--csv", "{place}/table.csv"),
    "evaluate --csv": ("evaluate", "{result}", "{result}", "--csv", "{place}/table.csv"),
    "evaluate --figures": ("evaluate", "{result}", "{result}", "--figures", "{place}"),
}
"""Each option and argument that says where results go."""


@pytest.fixture(scope="module")
def images(tiny: Path) -> Path:
    """A labelled data set of one image."""
    folder = tiny.parent / "set"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    write_synthetic_slide(folder / "drawn.tif", (300, 300), mpp=0.5, seed=4, tissue_fraction=1.0, labels=True)
    (folder / "drawn.tif").rename(folder / "images" / "a.tif")
    (folder / "drawn.labels.tif").rename(folder / "labels" / "a.tif")
    return folder


@pytest.mark.parametrize("writer", WRITERS)
def test_a_place_where_no_results_can_be_is_refused_by_every_command(
    writer: str, tiny: Path, right: bytes, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    result = tiny.parent / "right" / "tiny"
    for place, said in {
        "file": "file is not a folder|something other than a model",
        "file/deeper": "file is not a folder",
        "broken": "broken is a link that leads to no folder",
        "broken/deeper": "broken is a link that leads to no folder",
        "x" * 300: "File name too long",
    }.items():
        known = {"slide": tiny, "result": result, "images": images, "out": tmp_path, "place": tmp_path / place}
        with pytest.raises((OutputError, ModelError), match=said) as refused:
            command(*(word.format(**known) for word in WRITERS[writer]))
        assert "-o" not in str(refused.value).replace(str(tmp_path), ""), "of options, which may be another"
    assert (tmp_path / "file").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "broken"}, "nothing is made elsewhere"


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("place", ["a.zarr", "a.zarr/out", "a.zarr/0/deep/out", "a", "a/out", "link/out"])
def test_no_command_writes_into_a_slide(
    place: str, writer: str, tiny: Path, right: bytes, images: Path, tmp_path: Path
) -> None:
    """An OME-Zarr, and the folder beside a MIRAX that has its pixels; also through a link."""
    for file in ("a.zarr/zarr.json", "a.zarr/0/zarr.json", "a/Slidedat.ini"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "a.zarr")
    before = set(tmp_path.rglob("*"))
    result = tiny.parent / "right" / "tiny"
    known = {"slide": tiny, "result": result, "images": images, "out": tmp_path, "place": tmp_path / place}
    with pytest.raises(OutputError) as refused:
        command(*(word.format(**known) for word in WRITERS[writer]))
    slide = tmp_path / ("a" if place[:2] in ("a", "a/") else "a.zarr")
    assert f"it lies in {slide}, whose files are those of a slide; choose another folder" in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / place))
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("writer", ["run", "plan", "fit"])
@pytest.mark.parametrize("place", [".", "out", "deep/er/out"])
def test_no_command_writes_into_the_folder_of_dicom_files_that_it_is_given(
    place: str, writer: str, tmp_path: Path
) -> None:
    for number in range(2):
        write_dicom_header(tmp_path / "case" / f"{number}.dcm", "1.2")
    known = {"slide": tmp_path / "case", "place": tmp_path / "case" / place}
    with pytest.raises(OutputError, match=f"it lies in {tmp_path}/case, whose files are those of a slide"):
        command(*(word.format(**known) for word in WRITERS[writer]))
    assert sorted(tmp_path.rglob("*")) == [tmp_path / name for name in ("case", "case/0.dcm", "case/1.dcm")]


def test_python_refuses_to_write_into_a_slide(tmp_path: Path) -> None:
    import wsiproc as package

    write_dicom_header(tmp_path / "case" / "0.dcm", "1.2")
    with pytest.raises(OutputError, match="whose files are those of a slide"):
        package.run(tmp_path / "case", tmp_path / "case" / "out", model="classical")
    assert len(list(tmp_path.rglob("*"))) == 2


@pytest.mark.parametrize("other", ["b.tif", "1.dcm"])
def test_results_may_lie_in_a_folder_of_slides(other: str, tiny: Path, right: bytes, tmp_path: Path) -> None:
    """Also beside DICOM files of which one was given: only a folder that is a slide is one."""
    os.link(tiny, tmp_path / "tiny.tif")
    (tmp_path / other).write_bytes(b"II*") if other == "b.tif" else write_dicom_header(tmp_path / other, "1.2")
    given = tmp_path if other == "b.tif" else tmp_path / "tiny.tif"
    command("run", given, "-o", tmp_path / "out", "--executor", "loop", "-q", *CPU)
    assert (tmp_path / "out" / "tiny" / "cells.parquet").read_bytes() == right
    assert output_folder(tmp_path, [tmp_path / "1.dcm"]) == tmp_path


@pytest.mark.parametrize("writer", ["export", "synth", "evaluate --csv", "evaluate --figures"])
@pytest.mark.parametrize("place", ["two words/é", "new/../other", "./here//", "~/results"])
def test_results_go_where_they_were_sent_however_it_is_written(
    place: str, writer: str, tiny: Path, right: bytes, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    known = {"result": tiny.parent / "right" / "tiny", "place": place}
    assert command(*(word.format(**known) for word in WRITERS[writer])) == 0
    there = {"two words/é": "two words/é", "new/../other": "other", "./here//": "here", "~/results": "home/results"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(path.is_relative_to(tmp_path / there[place]) for path in files)


def test_a_file_to_write_is_no_folder_no_broken_link_and_has_a_name_of_usual_length(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").symlink_to(tmp_path / "gone" / "table.csv")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused = {
        "folder": "add the name of a file",
        "broken": "a link that leads to no file",
        "loop": "cannot be used: Too many levels",
        "x" * 201: "too long a name",
    }
    for name, said in refused.items():
        with pytest.raises(OutputError, match=said):
            make_place(tmp_path / name)
    (tmp_path / "table.csv").write_text("older")
    make_place(tmp_path / "table.csv")
    make_place(tmp_path / "new" / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "older"
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="folders in which not even root may write")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    for folder in (Path("/proc"), Path("/proc/nowhere")):
        with pytest.raises(OutputError, match=f"{folder}: nothing can be written there: "):
            make_folder(folder)


# --- every place where a path comes in -------------------------------------------------------------------------------


@pytest.fixture
def workshop(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that commands take, and the working folder two beside it."""
    (tmp_path / "in" / "here").mkdir(parents=True)
    os.link(tiny, tmp_path / "in" / "tiny.tif")
    ring = [[0, 0], [200, 0], [200, 200], [0, 200], [0, 0]]
    (tmp_path / "in" / "roi.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    (tmp_path / "in" / "lab.toml").write_text('roi = "../in/roi.geojson"\nmodel = "classical"\nexecutor = "loop"\n')
    monkeypatch.chdir(tmp_path / "in" / "here")
    return tmp_path / "in"


def test_all_commands_take_paths_with_dots(workshop: Path) -> None:
    """Relative paths within a config file start at the working folder."""
    assert command("run", "../tiny.tif", "--config", "../../in/lab.toml", "-o", "../out", "-q") == 1  # no ../in here
    (workshop / "lab.toml").write_text((workshop / "lab.toml").read_text().replace("../in/", "../"))
    assert command("run", "../tiny.tif", "--config", "../../in/lab.toml", "-o", "../out", "-q") == 0
    run = json.loads((workshop / "out" / "tiny" / "run.json").read_text())
    assert run["settings"]["roi"] == str(workshop / "roi.geojson")
    assert run["slide"]["path"] == str(workshop / "tiny.tif")
    done = "../here/../out"
    for arguments in (
        ("check", done), ("profile", done), ("qupath", done), ("info", "../here/../tiny.tif"),
        ("export", done, "-t", "csv", "-o", "../here/../exported"), ("plan", "../tiny.tif", "-m", "classical"),
        ("import", "../out/tiny/cells.geojson.gz", f"{done}/tiny", "--dry-run"),
        ("evaluate", f"{done}/tiny", f"{done}/tiny", "--csv", "../here/../scores.csv"),
        ("synth", "../here/../drawn.tif", "--height", 64, "--width", 64),
    ):  # fmt: skip
        assert command(*arguments) == 0, arguments
    assert (workshop / "exported" / "tiny" / "cells.csv.gz").exists()
    assert (workshop / "scores.csv").exists()
    assert (workshop / "drawn.tif").exists()
    assert list((workshop / "here").iterdir()) == []


def test_python_takes_the_same_paths(workshop: Path) -> None:
    import wsiproc as package

    (outcome,) = package.run("../tiny.tif", "../here/../out", model="classical", executor="loop", roi="../roi.geojson")
    assert outcome.error is None
    result = package.open("../here/../out")
    assert result.folder == workshop / "out" / "tiny"
    assert list(package.open_all("../out/.")) == ["tiny"]
    assert result.crop(1, slide="../here/../tiny.tif").shape[2] == 3


def test_workers_in_another_folder_and_a_read_only_slide(workshop: Path, right: bytes) -> None:
    (workshop / "tiny.tif").chmod(0o444)
    options = ("--executor", "processes", "-w", 2, "--region", 512, *CPU, "-q")
    done = wsiproc("run", "../tiny.tif", "-o", "../other/../out", *options, cwd=workshop / "here")
    assert done.returncode == 0, words(done.stdout + done.stderr)
    cells = (workshop / "out" / "tiny" / "cells.parquet").read_bytes()
    assert len(cells) > 0
    assert not (workshop / "other").exists()


# --- odd paths and surroundings, by the real command ------------------------------------------------------------------


def started(*arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python -m wsiproc``, where more environment variables are set."""
    command = [sys.executable, "-m", "wsiproc", *map(str, arguments)]
    environment = os.environ | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_a_name_that_is_not_utf_8_is_run_and_checked_and_told(tiny: Path, right: bytes, tmp_path: Path) -> None:
    slide = tmp_path / os.fsdecode(b"caf\xe9.tif")
    slide.symlink_to(tiny)
    runs = [started("run", slide, tiny, "-o", "out", "--executor", "loop", "--json", *CPU, cwd=tmp_path)]
    runs += [started(name, tmp_path / "out" / "caf_", cwd=tmp_path) for name in ("check", "profile", "qupath")]
    runs.append(started("export", tmp_path / "out" / "caf_", "-t", "h5ad", "-t", "csv", cwd=tmp_path))
    assert [done.returncode for done in runs] == [0, 0, 0, 0, 0], [done.stderr for done in runs]
    # Both are the same file, which is run once.
    assert [Path(each["path"]) for each in json.loads(runs[0].stdout)["slides"]] == [slide]
    assert (tmp_path / "out" / "caf_" / "cells.parquet").read_bytes() == right


@pytest.mark.parametrize("text", ["file://{}", "file://localhost{}", "FILE://{}"])
def test_the_address_of_a_file_is_its_path(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a b.svs"
    assert absolute(text.format(str(path).replace(" ", "%20"))) == path


@pytest.mark.parametrize(
    "text", ["s3://bucket/a.svs", "https://host/a.svs", "gs://b/c.zarr", "file://host/share/a.svs"]
)
def test_the_address_of_something_elsewhere_is_no_path(text: str) -> None:
    with pytest.raises(SettingsError, match="an address, not a path"):
        absolute(text)


def test_where_the_working_folder_is_gone_only_absolute_paths_work(tiny: Path, tmp_path: Path) -> None:
    script = f'mkdir x; cd x; rmdir ../x; exec "$PYTHON" -m wsiproc info {tiny.name}'
    lost = {"PYTHON": sys.executable}
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=os.environ | lost, capture_output=True, text=True)
    assert done.returncode == 2
    assert "a relative path, and the working directory is gone" in words(done.stderr)
    script = f'mkdir x; cd x; rmdir ../x; exec "$PYTHON" -m wsiproc info "{tiny}"'
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=os.environ | lost, capture_output=True, text=True)
    assert (done.returncode, "300 × 300 px" in done.stdout) == (0, True), done.stderr


def test_an_environment_without_columns_still_shows_what_there_is(tiny: Path, tmp_path: Path) -> None:
    assert "300 × 300 px" in started("info", tiny, cwd=tmp_path, COLUMNS="0").stdout


def test_a_temporary_folder_with_too_long_a_name_for_sockets(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("t" * 120)
    folder.mkdir()
    done = started("run", tiny, "-w", 2, *CPU, cwd=tmp_path, TMPDIR=str(folder))
    assert done.returncode == 2
    assert "has too long a name for the sockets of worker processes: set TMPDIR to one of" in words(done.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_an_output_that_is_full_is_told_as_such(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wsiproc", "info", str(tiny)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "the disk is full: make room on it" in words(done.stderr)
