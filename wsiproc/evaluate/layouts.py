"""Benchmark datasets as folders: images and their ground truths, paired by name.

Three layouts are recognised: ``images/`` next to ``labels/`` (instance labels, read by :func:`load_labels`),
``images/`` next to ``points/`` (CSV: x, y, class), and images with ImageScope XML in any subfolder, as MoNuSeg is
published. A dataset's name adds what its files do not contain: :mod:`wsiproc.evaluate.known`. A fourth is a list of
areas without nuclei (TOML), which names its images itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsiproc.array.nuclei.rasterise import rasterise
from wsiproc.core.choices import TissueChoice
from wsiproc.core.types import Int64Array
from wsiproc.errors import SettingsError
from wsiproc.evaluate.aperio import aperio_polygons
from wsiproc.evaluate.areas import load_marks
from wsiproc.evaluate.datasets import is_labelled, load_labels, stem
from wsiproc.evaluate.known import KI67_RADIUS_UM, KNOWN, NUCLEUS_RADIUS_UM, Role, TruthKind
from wsiproc.evaluate.points import POINT_CLASSES, load_points

_IMAGE = re.compile(r"(\.ome)?\.(png|tiff?|jpe?g|bmp|svs)$", re.IGNORECASE)


@dataclass(frozen=True)
class LabelledImage:
    """An image and the file that holds its truth; ``mpp`` µm/px if the truth contains it."""

    name: str
    image: Path
    truth: Path
    mpp: float | None = None


@dataclass(frozen=True)
class Dataset:
    """Images with truths, sorted by name, and the names of those ``without``; ``mpp`` µm/px if known.

    ``classes``: whether the truths are points of the classes of Ki-67, to be compared class by class; ``tissue``: how
    the runs find tissue; ``radius_um``: largest distance of matching points; ``organs``: of images by name, if known.
    """

    name: str
    folder: Path
    kind: TruthKind
    classes: bool
    mpp: float | None
    images: tuple[LabelledImage, ...]
    without: tuple[str, ...]
    tissue: TissueChoice = "all"
    radius_um: float = NUCLEUS_RADIUS_UM
    role: Role | None = None
    organs: Mapping[str, str] = field(default_factory=dict)


def find_dataset(name: str, folder: Path | None = None, limit: int | None = None) -> Dataset:
    """The dataset called ``name`` in ``folder``, or that in the folder ``name`` itself; its first ``limit`` images.

    SettingsError for unknown names, and for folders without images, without truths, or with truths without images.
    """
    if name.lower().endswith(".toml"):
        return _areas(Path(name), folder, limit)
    known = KNOWN.get(name)
    if known is not None:
        if folder is None:
            raise SettingsError(f"{name}: give its folder: wsiproc benchmark {name} FOLDER")
    elif folder is not None or not Path(name).is_dir():
        raise SettingsError(
            f"{name!r} is neither a dataset with a known layout ({', '.join(KNOWN)}) nor a folder; "
            f"give one of these and a folder, only a folder with images/ and labels/ or points/, or a list of areas "
            "(.toml) and the folder of its images"
        )
    folder = folder or Path(name)
    if not folder.is_dir():
        raise SettingsError(f"{folder}: no such folder")
    found, images, truths = _look(folder, None if known is None else known.kind)
    if known is not None and known.kind != found:
        raise SettingsError(
            f"{folder}: the truth of {name} is {known.kind}, but the folder holds {found}; give FOLDER alone"
        )
    labelled, without = _pair(folder, images, truths)
    labelled = labelled[:limit]
    pointed = labelled if found == "points" else []
    named = {str(name) for image in pointed for name in load_points(image.truth).classes}
    classes = bool(named) and named <= set(POINT_CLASSES)
    if known is None:
        radius_um = KI67_RADIUS_UM if classes else NUCLEUS_RADIUS_UM
        name = folder.resolve().name
        return Dataset(name, folder, found, classes, None, tuple(labelled), tuple(without), radius_um=radius_um)
    organs = {p.name: organ for p in labelled for start, organ in known.organs.items() if p.name.startswith(start)}
    return Dataset(
        name, folder, found, classes, known.mpp, tuple(labelled), tuple(without),
        radius_um=known.radius_um, role=known.role, organs=organs,
    )  # fmt: skip


def _areas(marks: Path, folder: Path | None, limit: int | None) -> Dataset:
    """The images of a list of areas, searched for in ``folder``, by default that of the list."""
    folder = folder or marks.parent
    listed = load_marks(marks)
    images = [folder / marked.file for marked in listed.images]
    missing = [image for image in images if not image.exists()]
    if missing:
        raise SettingsError(f"{marks}: {len(missing)} of {len(images)} images are not in {folder}: {missing[0]} …")
    names = [_IMAGE.sub("", image.name) for image in images]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise SettingsError(
            f"{marks}: images with the same name: {', '.join(duplicates[:3])}; their results would be mixed up"
        )
    labelled = [
        LabelledImage(name, image, marks, marked.mpp)
        for name, image, marked in zip(names, images, listed.images, strict=True)
    ]
    return Dataset(marks.stem, folder, "areas", False, None, tuple(labelled[:limit]), (), listed.tissue)


def load_truth(path: Path, shape: tuple[int, int]) -> Int64Array:
    """(h, w) labels of a file of labels or of ImageScope XML; SettingsError if it does not match ``shape``."""
    if path.suffix.lower() == ".xml":
        return rasterise(aperio_polygons(path), shape)
    return load_labels(path, shape)


def _look(folder: Path, wanted: TruthKind | None) -> tuple[TruthKind, dict[str, Path], dict[str, Path]]:
    """The layout of a folder: the kind of its truths, images and truths by name; the ``wanted`` kind is preferred."""
    images = folder / "images"
    kinds: tuple[TruthKind, ...] = ("points", "labels") if wanted == "points" else ("labels", "points")
    for kind in kinds:
        truths = folder / kind
        if images.is_dir() and truths.is_dir():
            files = sorted(path for path in truths.iterdir() if _is_truth(path, kind))
            names = [path.stem if kind == "points" else stem(path) for path in files]
            return kind, _by_name(images.iterdir()), dict(zip(names, files, strict=True))
    outlines = {path.stem: path for path in sorted(folder.rglob("*.xml")) if not _hidden(path)}
    if outlines:
        return "labels", _by_name(folder.rglob("*")), outlines
    if any(folder.rglob("*.h5")):
        raise SettingsError(
            f"{folder}: HDF5 annotations are not read; write each image's points to points/<image>.csv, with the "
            "header x,y,class, next to images/"
        )
    raise SettingsError(
        f"{folder}: not a benchmark dataset; that is a folder with images/ and labels/ (instance labels: PNG, TIFF, "
        "npy), images/ and points/ (CSV: x,y,class), or images and the XML of Aperio ImageScope"
    )


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _is_truth(path: Path, kind: TruthKind) -> bool:
    if _hidden(path):
        return False
    return path.suffix.lower() == ".csv" if kind == "points" else is_labelled(path)


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Images by name; SettingsError if two have the same name, since their results would be mixed up."""
    images: dict[str, Path] = {}
    for path in sorted(paths):
        if _hidden(path) or not path.is_file() or not _IMAGE.search(path.name):
            continue
        name = _IMAGE.sub("", path.name)
        if name in images:
            raise SettingsError(f"{path} and {images[name]} have the same name; give a folder with one of them")
        images[name] = path
    return images


def _pair(folder: Path, images: dict[str, Path], truths: dict[str, Path]) -> tuple[list[LabelledImage], list[str]]:
    """Images with truths, and the names of those without."""
    if not images:
        raise SettingsError(f"{folder}: no images found (PNG, TIFF, JPEG, BMP, SVS)")
    if not truths:
        raise SettingsError(f"{folder}: {len(images)} images, but no truths to compare with")
    alone = sorted(set(truths) - set(images))
    if alone:
        raise SettingsError(
            f"{folder}: {len(alone)} of {len(truths)} truths have no image with their name: {', '.join(alone[:3])}; "
            f"the {len(images)} images are called {', '.join(list(images)[:3])} …"
        )
    labelled = [LabelledImage(name, images[name], truths[name]) for name in sorted(truths)]
    return labelled, sorted(set(images) - set(truths))
