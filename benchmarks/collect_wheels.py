"""Collect the wheels that ``gpu_proof.py`` needs and a machine lacks into a folder to copy there.

    python benchmarks/collect_wheels.py --python 3.12 --there names.txt [--out wheels]

``names.txt``: packages that are installed there, one per line, as ``pip list --format=freeze`` prints them on that
machine; without it, only PyTorch and NumPy are assumed. Libraries that wsiproc requires but the proof does not use are
skipped. Installed packages are used as they are, whatever their version; the rest are taken in the versions of
constraints.txt, with their own requirements. Only prebuilt wheels for 64-bit Linux on x86 are collected.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# Required by wsiproc for what a proof does not do: tables for Python, clusters, the viewer, the second validator of
# OME-Zarr.
UNUSED = {
    "anndata",
    "anyio",
    "distributed",
    "geojson",
    "geopandas",
    "pandas",
    "starlette",
    "uvicorn",
}
UNUSED |= {"yaozarrs"}
ALWAYS_THERE = ("torch", "numpy")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def names_in(lines: Iterable[str]) -> set[str]:
    """Names of packages, a line each, whatever follows them."""
    words = (line.replace("=", " ").replace("@", " ").split() for line in lines if not line.startswith("#"))
    return {canonicalize_name(parts[0]) for parts in words if parts}


def roots() -> list[Requirement]:
    """What a proof imports, as pyproject.toml requires it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    return [each for each in wanted if canonicalize_name(each.name) not in UNUSED]


def missing(wanted: Iterable[Requirement], there: set[str], python: str) -> dict[str, Requirement]:
    """Those of ``wanted`` that apply there and are not there, by name."""
    applies = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "extra": ""}
    found = {
        canonicalize_name(each.name): each for each in wanted if each.marker is None or each.marker.evaluate(applies)
    }
    return {name: each for name, each in found.items() if name not in there}


def download(wanted: Iterable[Requirement], python: str, out: Path) -> None:
    """Wheels of these, and of nothing that they require."""
    tag = python.replace(".", "")
    plain = [f"{each.name}{each.specifier}" for each in wanted]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(out)]
    command += ["--python-version", python, "--implementation", "cp", "-c", str(ROOT / "constraints.txt")]
    command += [f"--abi={abi}" for abi in (f"cp{tag}", "abi3", "none")] + [f"--platform={each}" for each in PLATFORMS]
    subprocess.run(command + plain, check=True)


def requirements_of(wheel: Path) -> list[Requirement]:
    """What a wheel requires."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA") and each.count("/") == 1)
        facts = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    return [Requirement(text) for text in facts.get_all("Requires-Dist", [])]


def collect(there: set[str], python: str, out: Path) -> list[Path]:
    """Download what is missing, and what that requires, until nothing is."""
    out.mkdir(parents=True, exist_ok=True)
    have, seen = set(there), set(out.glob("*.whl"))
    wanted = missing([*roots(), *(each for wheel in seen for each in requirements_of(wheel))], have, python)
    while wanted:
        download(wanted.values(), python, out)
        have |= set(wanted)
        fresh = set(out.glob("*.whl")) - seen
        seen |= fresh
        wanted = missing((each for wheel in fresh for each in requirements_of(wheel)), have, python)
    return sorted(seen)


def main(there: Path | None, python: str, out: Path) -> None:
    """Print what was gathered."""
    lines = there.read_text(encoding="utf-8").splitlines() if there else ()
    wheels = collect(names_in(lines) | set(ALWAYS_THERE), python, out)
    for wheel in wheels:
        print(f"{wheel.stat().st_size / 2**20:6.1f} MiB  {wheel.name}")
    print(f"{sum(wheel.stat().st_size for wheel in wheels) / 2**20:6.1f} MiB in {len(wheels)} wheels: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--there", type=Path, help="names of the packages that are there")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    parser.add_argument("--out", type=Path, default=Path("wheels"))
    given = parser.parse_args()
    main(given.there, given.python, given.out)
