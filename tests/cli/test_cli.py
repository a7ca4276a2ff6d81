"""The command as a user meets it: a process with arguments, an exit code, and plain text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from tests.command import CPU, words, wsiproc
from tests.evaluate.datasets_on_disk import write_masks
from wsiproc import __version__
from wsiproc.cli.slide_commands.options import gigabytes

COMMANDS = (
    "run", "plan", "view", "export", "profile", "qupath", "import", "info", "check", "doctor", "evaluate",
    "benchmark", "synth", "reclassify", "schema",
)  # fmt: skip
SHAPE = (1500, 1800)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide drawn by the command itself, with its true labels beside it."""
    path = tmp_path_factory.mktemp("slides") / "drawn slide.tif"
    size = ("--height", SHAPE[0], "--width", SHAPE[1], "--mpp", 0.5, "--tissue", 0.6)
    done = wsiproc("synth", path, *size, "--labels")
    assert done.returncode == 0
    assert re.fullmatch(re.escape(str(path)) + r": .*\d.*; truth in .*\.truth\.parquet\n", done.stdout)
    assert done.stderr == ""
    return path


@pytest.fixture(scope="module")
def bad(slide: Path) -> Path:
    path = slide.with_name("bad.svs")
    path.write_bytes(b"not a slide")
    return path


@pytest.fixture(scope="module")
def first_run(slide: Path, bad: Path) -> subprocess.CompletedProcess[str]:
    """A run over a good and a bad slide, into ``out`` beside them."""
    return wsiproc("run", bad, slide, "-o", slide.with_name("out"), "--executor", "loop", *CPU)


@pytest.fixture(scope="module")
def folder(slide: Path, first_run: subprocess.CompletedProcess[str]) -> Path:
    """Output folder of the good slide."""
    assert first_run.returncode == 1
    return slide.parent / "out" / slide.stem


# --- help and mistakes -----------------------------------------------------------------------------------------------


def test_the_version_is_one_line() -> None:
    done = wsiproc("--version")
    assert (done.returncode, done.stdout) == (0, f"wsiproc {__version__}\n")


def test_the_help_names_every_command() -> None:
    done = wsiproc("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^. {command} +[A-Z]", done.stdout, re.MULTILINE), command


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_an_example(command: str) -> None:
    done = wsiproc(command, "-h")
    assert done.returncode == 0
    assert re.search(rf"Examples?: wsiproc {command} \S", words(done.stdout))


def test_help_keeps_what_looks_like_markup() -> None:
    """Extras in brackets, and stars of patterns."""
    assert {"wsiproc[spatialdata])", "wsiproc[tiatoolbox])"} <= set(words(wsiproc("export", "-h").stdout).split())
    assert "slides/*.ndpi" in words(wsiproc("run", "-h").stdout)


def test_the_bare_command_shows_help_and_minus_v_the_version() -> None:
    assert "Usage: wsiproc" in words(wsiproc().stdout + wsiproc().stderr)
    assert wsiproc("-V").stdout == wsiproc("--version").stdout


@pytest.mark.parametrize(
    ("command", "mpp"), [("run", "nan"), ("run", "inf"), ("run", "-1"), ("run", "0"), ("plan", "nan"), ("info", "0")]
)
def test_a_pixel_size_that_is_no_positive_number(slide: Path, command: str, mpp: str, tmp_path: Path) -> None:
    done = wsiproc(command, slide, f"--mpp={mpp}", cwd=tmp_path)
    assert done.returncode == (1 if command == "info" else 2)
    assert "not a positive number" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "a.svs", "--device", "tpu"), "device is 'tpu'; choose one of auto, cpu, cuda"),
        (("run", "a.svs", "--workers", 0), "workers is 0; at least 1 is needed"),
        (("run", "a.svs", "--region", "large"), "Invalid value for '--region'"),
        (("run", "a.svs", "--executor", "fax"), "executor is 'fax'; choose one of auto, dask"),
        (("run", "a.svs", "--model", "psychic"), "unknown model 'psychic'; known are classical"),
        (("run", "a.svs", "--regoin", 512), "No such option: --regoin"),
        (("run", "a.svs", "--config", "gone.toml"), "gone.toml: settings cannot be read: No such file"),
        (("synth", "a.tif", "--stain", "PAS"), "'PAS' is not one of 'HE', 'HDAB'"),
        (("synth", "a.tif", "--look", "odd"), "look='odd'; it must be one of bright, grey, warm, purple, soft"),
        (("check", "gone"), "gone: no such folder"),
        (("evaluate", "gone", "gone.tif"), "gone: no such file or folder to evaluate"),
        (("benchmark", "pannuke"), "'pannuke' is neither a dataset with a known layout (monuseg, "),
        (("benchmark", "monuseg"), "monuseg: give its folder: wsiproc benchmark monuseg FOLDER"),
        (("benchmark", "bcdata", "gone"), "gone: no such folder"),
        (("benchmark", "monuseg", "gone", "--limit", 0), "Invalid value for '--limit'"),
        (("qupath", "gone"), "gone: no such folder"),
        (("qupath", "gone", "--tiles", 4, "--cells-per-file", 9), "give one of them"),
        (("import", "a.geojson", "gone"), "gone: no such folder"),
        (("import", "a.geojson", "gone", "--missing", "ask"), "'ask' is not one of 'delete', 'keep'"),
        (("runn", "a.svs"), "No such command 'runn'"),
        (("/dev/null",), "/dev/null is not a command; to find the cells of a slide: wsiproc run /dev/null"),
        (("run", "s3://bucket/a.svs"), "s3://bucket/a.svs: an address, not a path"),
        (("run", "a.svs", "-o", "https://host/out"), "https://host/out: an address, not a path"),
        (("run", "$SLIDES/a.svs"), "a variable in it was not replaced"),
        (("run", r"D:\\slides\\a.svs"), "it is written as on Windows"),
        (("run", "*.nothing"), "no file matches this pattern"),
    ],
)
def test_a_command_that_makes_no_sense_ends_with_2_and_a_sentence(
    arguments: tuple[object, ...], said: str, tmp_path: Path
) -> None:
    done = wsiproc(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in words(done.stderr)
    assert len(done.stderr.splitlines()) <= 6
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


# --- info and plan ---------------------------------------------------------------------------------------------------


def test_info_tells_size_and_resolution(slide: Path) -> None:
    done = wsiproc("info", slide)
    assert (done.returncode, done.stderr) == (0, "")
    assert "width × height 1,800 × 1,500 px, 0.9 × 0.75 mm" in words(done.stdout)
    assert "pixel size 0.5 µm" in words(done.stdout)


def test_info_tells_of_a_slide_without_a_pixel_size_what_there_is_and_what_to_do(data: Path) -> None:
    path = data / "slides" / "no_mpp_jpeg2000.svs"
    done = wsiproc("info", path)
    assert (done.returncode, done.stderr) == (0, "")
    said = words(done.stdout)
    assert "format aperio" in said
    assert "width × height 4,443 × 3,567 px, 0.0158 gigapixels" in said
    assert "pixel size not known" in said
    assert "levels 2, px of level 0 per px: 1, 2" in said
    assert "remedy the file does not say its pixel size; pass --mpp" in said
    assert "µm" not in said.partition("remedy")[0]
    assert "pixel size 0.25 µm" in words(wsiproc("info", path, "--mpp", 0.25).stdout)


def test_info_names_bad_and_missing_files_with_a_remedy_and_shows_the_good_one(slide: Path, bad: Path) -> None:
    missing = slide.with_name("gone.svs")
    done = wsiproc("info", bad, missing, slide)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith(f"Error: {bad}: not a slide that wsiproc can read")
    assert first.endswith("copy or export it again")
    assert second == f"Error: {missing}: no such file or folder"
    assert "1,800 × 1,500 px" in words(done.stdout)


@pytest.mark.parametrize(
    ("size", "gb"),
    [("8", 8.0), ("8GB", 8.0), (" 8 gb", 8.0), ("1.5GiB", 1.610612736), ("800MB", 0.8), (".5TB", 500.0)],
)
def test_sizes_are_read_as_users_write_them(size: str, gb: float) -> None:
    assert gigabytes(size) == pytest.approx(gb)


@pytest.mark.parametrize("size", ["", "GB", "8 apples", "-1GB", "1e3", "8GBs", "0x10"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(typer.BadParameter, match="write it as 8GB"):
        gigabytes(size)


def test_memory_that_does_not_suffice_is_told_with_both_numbers(slide: Path, tmp_path: Path) -> None:
    done = wsiproc("run", slide, "-o", tmp_path / "out", "--memory", "600MB", *CPU)
    assert done.returncode == 1
    assert re.search(r"memory: \d\.\d\d GB needed, 0\.60 GB available", done.stdout)
    assert wsiproc("run", slide, "--memory", "little").returncode == 2


def test_plan_tells_memory_disk_and_time_and_writes_nothing(slide: Path, tmp_path: Path) -> None:
    done = wsiproc("plan", slide, "-o", tmp_path / "out", "--region", 512, "--model", "fast")
    assert (done.returncode, done.stderr) == (0, "")
    for pattern in (
        r"memory \d+\.\d\d GB", r"disk \d+\.\d\d GB", r"time about \d+ s", r"cells about [1-9]", r"tissue 0\.\d\d mm²",
        r"regions \d+ of 512 px with tissue, \d+ windows, \d+\.\d Mpx",
    ):  # fmt: skip
        assert re.search(pattern, words(done.stdout)), pattern
    assert not list(tmp_path.iterdir())


def test_a_region_of_interest_that_is_not_there_is_named(slide: Path, tmp_path: Path) -> None:
    missing = wsiproc("plan", slide, "--roi", tmp_path / "gone.geojson", *CPU)
    assert missing.returncode == 1
    said = f"Error: {tmp_path / 'gone.geojson'}: the region of interest cannot be read: No such file or directory; "
    assert missing.stderr.startswith(said)


# --- run and check ---------------------------------------------------------------------------------------------------


def test_a_bad_slide_is_named_with_its_reason_and_costs_no_other(
    first_run: subprocess.CompletedProcess[str], folder: Path, bad: Path
) -> None:
    assert first_run.returncode == 1
    summary = first_run.stdout.splitlines()
    assert any(line.startswith(f"Failed, bad.svs: {bad}: not a slide") for line in summary)
    assert any(re.match(r" *drawn slide\.tif +done +[1-9][\d,]* ", line) for line in summary)
    assert f"{folder}: report.html, cells.parquet, cells.geojson.gz, *.ome.zarr" in summary
    assert json.loads((folder / "run.json").read_text())["counts"]["cells"] > 500
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "cohort.csv", "cohort.html"}


def test_output_that_is_no_terminal_comes_in_lines_without_escape_codes(
    first_run: subprocess.CompletedProcess[str],
) -> None:
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", first_run.stderr + first_run.stdout)
    lines = first_run.stderr.splitlines()
    assert lines[0] == "drawn slide: detecting tissue, calibrating"
    assert re.fullmatch(r"\[1/2\] drawn slide\.tif: done, [\d,]+ cells in \d+ s", lines[-2])
    assert lines[-1].startswith("[2/2] bad.svs: failed: ")


def test_a_finished_slide_is_not_done_again_and_quiet_prints_the_summary_only(slide: Path, folder: Path) -> None:
    before = (folder / "run.json").stat().st_mtime_ns
    again = wsiproc("run", slide, "-o", folder.parent, "--quiet", *CPU)
    assert (again.returncode, again.stderr) == (0, "")
    assert "drawn slide.tif already done" in words(again.stdout)
    assert (folder / "run.json").stat().st_mtime_ns == before


def test_other_settings_do_not_overwrite_unasked(slide: Path, folder: Path) -> None:
    before = (folder / "cells.parquet").read_bytes()
    done = wsiproc("run", slide, "-o", folder.parent, "--region", 512, "-q", *CPU)
    assert done.returncode == 1
    assert "pass --overwrite to replace" in words(done.stdout)
    assert (folder / "cells.parquet").read_bytes() == before


def test_an_option_wins_over_the_config_file(slide: Path, tmp_path: Path) -> None:
    """Told by the sentence about a region that suits no model, which comes before any work."""
    config = tmp_path / "lab.toml"
    config.write_text("region = 1000\n")
    assert "region is 1000 px" in wsiproc("plan", slide, "--config", config).stderr
    assert "region is 1500 px" in wsiproc("plan", slide, "--config", config, "--region", 1500).stderr


def test_check_tells_a_good_folder_from_a_damaged_one(folder: Path, tmp_path: Path) -> None:
    good = wsiproc("check", folder.parent)
    assert good.returncode == 0
    assert good.stdout.splitlines()[0] == str(folder)
    assert "error" not in good.stdout
    for name in ("run.json", "cells.parquet"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "cells.geojson.gz").write_bytes(b"torn")
    damaged = wsiproc("check", tmp_path)
    assert damaged.returncode == 1
    assert re.search(r"^  ok +cells\.parquet: ", damaged.stdout, re.MULTILINE)
    assert re.search(r"^  error +cells\.geojson\.gz", damaged.stdout, re.MULTILINE)


# --- evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate_scores_a_run_against_the_truth_that_was_drawn(slide: Path, folder: Path, tmp_path: Path) -> None:
    truth = slide.with_name(f"{slide.stem}.labels.tif")
    found = wsiproc("evaluate", folder, truth, "--csv", tmp_path / "scores.csv", "--figures", tmp_path / "figures")
    assert (found.returncode, found.stderr) == (0, "")
    header, row, *_ = (tmp_path / "scores.csv").read_text().splitlines()
    scores = dict(zip(header.split(","), row.split(","), strict=True))
    assert 0.6 < float(scores["f1"]) < 1
    assert f"{float(scores['f1']):.3f}" in found.stdout, "numbers are not cut off"
    assert list((tmp_path / "figures").iterdir())


# --- benchmark -------------------------------------------------------------------------------------------------------


def test_benchmark_prints_a_table_and_names_what_failed(tmp_path: Path) -> None:
    write_masks(tmp_path / "set", ["drawn", "torn"])
    command = ("benchmark", "set", "--mpp", 0.25, "-o", "out", "-w", 1, *CPU)
    good = wsiproc(*command, "--limit", 1, "--csv", "table.csv", cwd=tmp_path)
    assert good.returncode == 0
    first, second = good.stderr.splitlines()
    assert first == "set: 1 images with labels in set"
    assert re.fullmatch(r"\[1/1\] classical, drawn: done, AJI 0\.\d{3}, \d+ cells in \d+\.\d s", second)
    header, row = (tmp_path / "table.csv").read_text().splitlines()
    scores = dict(zip(header.split(","), row.split(","), strict=True))
    assert re.search(rf"│ aji +│ +{float(scores['aji']):.3f} │", good.stdout)
    assert (tmp_path / "out" / "classical" / "figures" / "01_drawn.png").exists()

    (tmp_path / "set" / "images" / "torn.png").write_bytes(b"torn")
    half = wsiproc(*command, cwd=tmp_path)
    assert half.returncode == 1
    assert "[1/2] classical, drawn: already done" in half.stderr
    assert any(line.startswith("Failed, classical, torn: ") for line in half.stdout.splitlines())
