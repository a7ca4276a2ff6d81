"""The doctor finds what is wrong, says what to do, and finds nothing where all is well."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.command import words, wsiproc
from tests.io.slides.slide_writers import write_tiff
from wsiproc import models
from wsiproc.cli.diagnostics import (
    Diagnosis,
    check_codecs,
    check_cores,
    check_extra,
    check_folder,
    check_gpu,
    check_memory,
    check_model,
    check_openslide,
    check_versions,
    examine,
)
from wsiproc.synthetic import write_synthetic_slide

CHECKS = (
    "versions", "cores", "memory", "disk for results", "disk for temporary files", "codecs", "OpenSlide", "TIFF",
    "OME-Zarr", "model", "GPU", "workers", "Dask", "dask-jobqueue", "tiatoolbox", "timm",
)  # fmt: skip
QUICK = tuple(name for name in CHECKS if name not in ("workers", "Dask"))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawn") / "drawn.tif"
    write_synthetic_slide(path, (608, 608), mpp=0.5, tissue_fraction=1.0)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def by_name(out: Path, quick: bool = True) -> dict[str, Diagnosis]:
    return {diagnosis.what: diagnosis for diagnosis in examine(out, quick)}


# --- the command -----------------------------------------------------------------------------------------------------


def test_all_is_well_here_a_line_each_and_quickly(tmp_path: Path) -> None:
    wsiproc("doctor", "--quick")  # numba compiles once an installation
    started = time.monotonic()
    done = wsiproc("doctor", "-o", tmp_path / "out", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if "→" not in line]
    assert [line[9:35].rstrip() for line in lines] == list(CHECKS)
    assert all(line.startswith(("ok ", "warning ")) for line in lines)
    assert not list(tmp_path.iterdir())
    assert time.monotonic() - started < 60, "some 12 s on two cores, and tests share them"


def test_a_problem_ends_with_1_and_its_remedy_under_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = wsiproc("doctor", "--quick", "-o", tmp_path / "file" / "out")
    assert done.returncode == 1
    assert f"problem disk for results {tmp_path}/file/out cannot be written to: Not a directory" in words(done.stdout)
    assert "→ choose another -o folder" in done.stdout
    assert " Dask " not in done.stdout


def test_json_has_everything_and_no_names_of_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = wsiproc("doctor", "--quick", "--json", "-o", tmp_path / "file" / "out", cwd=tmp_path)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert [check["what"] for check in report["checks"]] == list(QUICK)
    assert report["libraries"]["numpy"] == np.__version__
    (problem,) = [check for check in report["checks"] if check["level"] == "problem"]
    assert problem["found"] == "<out> cannot be written to: Not a directory"
    for place in (tmp_path, Path.home(), tempfile.gettempdir()):
        assert str(place) not in done.stdout


# --- the machine -----------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_a_problem(disk: Path) -> None:
    assert check_folder("temporary", disk, "elsewhere").level == "ok"
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    found = check_folder("disk for results", disk / "not" / "yet", "elsewhere")
    assert (found.level, found.remedy) == ("problem", "elsewhere")
    assert found.found == f"{disk}/not/yet cannot be written to: Read-only file system"


def test_a_disk_that_is_nearly_full_is_a_warning_and_a_full_one_a_problem(disk: Path) -> None:
    found = check_folder("disk for results", disk, "elsewhere")
    assert found.level == "warning"
    assert "0.0 GB free; writable; 100 mm² of tissue need 1." in found.found
    (disk / "filler").write_bytes(bytes(1 << 20))
    full = check_folder("disk for results", disk, "elsewhere")
    assert (full.level, full.found) == ("problem", f"{disk} cannot be written to: No space left on device")


def test_without_a_place_for_temporary_files_nothing_else_is_tried(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    found = by_name(tmp_path)
    assert list(found) == list(CHECKS[:5])
    assert found["disk for temporary files"].remedy.startswith("set TMPDIR")


def test_what_bounds_cores_and_memory_is_named_with_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "4096")
    memory, cores = check_memory(), check_cores()
    assert (memory.level, cores.level) == ("ok", "ok")
    assert cores.found == "1 of 64 may be used (Slurm: 1)"
    assert " 4.3 GB free (Slurm: 4.3 GB): 1 worker of " in memory.found
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1024")
    tight = check_memory()
    assert tight.level == "warning"
    assert " 1.1 GB free (Slurm: 1.1 GB): one worker needs up to " in tight.found


def test_libraries_that_are_missing_or_too_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:

    def version(name: str) -> str:
        if name == "isal":
            raise PackageNotFoundError(name)
        return "2.18.0" if name == "zarr" else "9999"

    monkeypatch.setattr("wsiproc.cli.diagnostics.version", version)
    found = check_versions()
    assert found.level == "problem"
    assert found.found.endswith("; isal is not installed, zarr is 2.18.0, but >=3.1.3 is required")


# --- formats ---------------------------------------------------------------------------------------------------------


def test_a_codec_that_is_missing_or_broken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import imagecodecs

    monkeypatch.delattr(imagecodecs, "lzw_decode")
    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda data: np.zeros((64, 64, 3), np.uint8))
    found = check_codecs()
    assert found.level == "problem"
    assert "JPEG 2000 decodes to another image; LZW: " in found.found
    assert "zstd" not in found.found


def test_without_codecs_everything_is_still_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    found = by_name(tmp_path)
    assert found["codecs"].level == "problem"
    assert found["codecs"].remedy == "pip install --force-reinstall imagecodecs"
    assert tuple(found) == QUICK


def test_without_openslide_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    monkeypatch.delitem(sys.modules, "wsiproc.io.slides.readers.openslide", raising=False)
    found = by_name(tmp_path)["OpenSlide"]
    assert (found.level, found.remedy) == ("problem", "pip install --force-reinstall openslide-bin")
    assert "openslide" in found.found


def test_a_slide_of_glass_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def glass(path: Path, shape: tuple[int, int], **_: Any) -> None:
        write_tiff(path, [np.full((*shape, 3), 240, np.uint8)])

    monkeypatch.setattr("wsiproc.synthetic.write_synthetic_slide", glass)
    with pytest.raises(ValueError, match=r"read with only \d+ grey levels"):
        check_openslide(tmp_path / "drawn.tif")


# --- model and GPU ---------------------------------------------------------------------------------------------------


def test_a_damaged_model_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "default"
    shutil.copytree(models.BUNDLED, folder)
    weights = bytearray((folder / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(weights)
    monkeypatch.setitem(models.BUNDLED_FOLDERS, "default", folder)
    found = by_name(tmp_path)["model"]
    assert found.level == "problem"
    assert "is not the file that model.toml describes: its SHA-256 is" in found.found
    assert found.remedy.startswith("it comes with the package")


def test_the_model_finds_what_is_drawn(slide: Path) -> None:
    found = check_model(slide)
    assert found.level == "ok"
    nuclei = int(found.found.split("; ")[1].split()[0])
    assert 300 < nuclei < 900


def test_operators_on_bytes_that_cannot_be_used_are_a_warning(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsiproc.models.device.fast_int8", lambda: True)
    monkeypatch.setattr("wsiproc.models.device.fast_bfloat16", lambda: False)
    monkeypatch.setattr("wsiproc.models.device.int8_failure", lambda: "PyTorch 9.9 cannot compute in int8 here (why)")
    found = check_model(slide)
    assert (found.level, found.remedy) == ("warning", "install the PyTorch of constraints.txt")
    assert " s on one CPU in float32; networks compute in float32, which is slower: PyTorch 9.9 cannot" in found.found


@pytest.mark.parametrize(
    ("driver", "cuda", "level", "said"),
    [
        (False, None, "ok", "none; the CPU is used"),
        (False, "12.8", "ok", "built for CUDA 12.8"),
        (True, None, "warning", "is built for CPUs, but there is an NVIDIA driver"),
        (True, "12.8", "warning", "finds no GPU, although there is an NVIDIA driver"),
    ],
)
def test_what_pytorch_makes_of_a_driver(
    driver: bool, cuda: str | None, level: str, said: str, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiproc.cli.diagnostics.nvidia_driver", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found = check_gpu(slide)
    assert found.level == level
    assert said in found.found
    assert bool(found.remedy) == driver
    if driver and cuda is None:
        assert f"pip install torch=={torch.__version__.partition('+')[0]};" in found.remedy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_gives_the_maps_of_the_cpu(slide: Path) -> None:
    found = check_gpu(slide)
    assert found.level == "ok", found.found
    assert torch.cuda.get_device_name() in found.found


def test_a_cluster_that_does_not_start_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For once the address of the local cluster is one that no machine has."""
    from distributed import LocalCluster

    start = "wsiproc.executors.dask.LocalCluster"
    monkeypatch.setattr(start, lambda **options: LocalCluster(**options | {"host": "192.0.2.1"}))
    found = by_name(tmp_path, quick=False)
    assert found["workers"].level == "ok"
    assert found["Dask"].level == "problem"
    assert found["Dask"].remedy.startswith("only clusters need it")


def test_extras_say_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_extra("dask-jobqueue").found.endswith(": workers on Slurm and LSF")

    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("wsiproc.cli.diagnostics.version", version)
    assert check_extra("timm").found.endswith("pip install 'wsiproc[timm]'")


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    by_name(tmp_path / "out")
    assert os.listdir(tmp_path) == []
