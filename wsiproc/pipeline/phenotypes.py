"""Phenotypes (clusters of cells) without labels: found once for all slides of a run, before any is segmented.

Cells in sampled windows of every slide are measured and clustered; one centre per phenotype is kept, in
``classes.toml``. A cell's phenotype then depends on its own measurements alone, on any slide, however the work is
divided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsiproc.array.kmeans import standardised_kmeans
from wsiproc.array.nuclei.measure import label_sums
from wsiproc.core.geometry import Box
from wsiproc.core.palette import phenotype_colours
from wsiproc.core.phenotypes import Phenotypes, by_ratio, comparable
from wsiproc.core.types import Float32Array, OnProgress, UInt8Array
from wsiproc.errors import PlanError, SettingsError, sentence
from wsiproc.executors import trim_heap
from wsiproc.io.cells.phenotypes import read_phenotypes, write_phenotypes
from wsiproc.io.slides.pixels.mirror import read_mirrored
from wsiproc.models.base import Model
from wsiproc.models.device import choose_device
from wsiproc.models.inference import predict
from wsiproc.pipeline.planning.plan import choose_model, slide_source
from wsiproc.pipeline.planning.survey import Survey, survey_slide
from wsiproc.pipeline.settings import Settings
from wsiproc.pipeline.stages.job import stain_channels
from wsiproc.pipeline.stages.segment import cell_table

FILE = "classes.toml"

# In total, shared equally by the slides, so that a large cohort costs little more than its planning.
_MOST_CELLS, _MOST_WINDOWS = 20_000, 256
_MIN_CELLS_PER_PHENOTYPE = 20
_DIGITS = 6  # in the file


def find_phenotypes(paths: Sequence[Path], out: Path, settings: Settings, on_progress: OnProgress) -> Phenotypes | None:
    """The phenotypes that cells are assigned to; None where they keep the classes of the model.

    If the settings give a number of phenotypes, they are found in the slides ``paths`` and written to
    ``out``/classes.toml, unless that exists. ``on_progress``: slides sampled, slides in total. Raises SettingsError
    where a file does not suit the run, and PlanError where the samples hold too few cells.
    """
    wanted = settings.classes
    if wanted is None:
        return None
    model = choose_model(settings)
    path = wanted if isinstance(wanted, Path) else out / FILE
    if isinstance(wanted, int) and not path.exists():
        phenotypes, found_in = _discover(paths, settings, model, wanted, on_progress)
        out.mkdir(parents=True, exist_ok=True)
        write_phenotypes(path, phenotypes, found_in)
        trim_heap()
    phenotypes = read_phenotypes(path)  # even if just found, so that a resumed run has the same digits
    _require_model(phenotypes, model, path)
    if isinstance(wanted, int) and len(phenotypes.names) != wanted:
        raise SettingsError(
            f"{path} holds {len(phenotypes.names)} phenotypes, but --classes asks for {wanted}. Pass --classes {path} "
            "to use those, or delete the file (or choose another -o folder) to find them again"
        )
    return phenotypes


def _require_model(phenotypes: Phenotypes, model: Model, path: Path) -> None:
    """Refuse phenotypes of another model's cells."""
    theirs, ours = (
        (phenotypes.model, phenotypes.mpp, phenotypes.weights_sha256),
        (model.name, model.mpp, model.weights_sha256),
    )
    if theirs != ours:
        what = [f"{name!r} at {mpp:g} µm/px, weights {str(weights)[:12]}" for name, mpp, weights in (theirs, ours)]
        raise SettingsError(
            f"{path}: its phenotypes were found in cells of the model {what[0]}; this run uses {what[1]}. Run that "
            "model, or find phenotypes for this one: --classes with their number, in another -o folder"
        )


def _discover(
    paths: Sequence[Path], settings: Settings, model: Model, count: int, on_progress: OnProgress
) -> tuple[Phenotypes, str]:
    """``count`` phenotypes in all slides that can be read, and a description of the cells they were found in."""
    samples, stains = _sample_slides(paths, settings, model, on_progress)
    features = _features(stains)
    cells = np.concatenate([np.stack([comparable(name, table[name]) for name in features], 1) for table in samples])
    found_in = f"{len(cells):,} cells of {len(samples)} {'slide' if len(samples) == 1 else 'slides'}"
    if len(cells) < count * _MIN_CELLS_PER_PHENOTYPE:
        raise PlanError(
            f"{count} phenotypes (clusters of cells) need at least {count * _MIN_CELLS_PER_PHENOTYPE} sampled cells, "
            f"but there are {found_in}. Ask for fewer --classes, or run more slides together"
        )
    scale, centres = standardised_kmeans(cells, count)
    ratios = [by_ratio(name) for name in features]
    centres[:, ratios] = np.exp(centres[:, ratios])
    ordered = centres[np.argsort(centres[:, _leading(features)], kind="stable")]
    phenotypes = Phenotypes(
        names=tuple(f"Kind {number}" for number in range(1, count + 1)),
        colours=phenotype_colours(count),
        features=features,
        scale=tuple(_short(value) for value in scale),
        centres=tuple(tuple(_short(value) for value in centre) for centre in ordered),
        model=model.name,
        mpp=model.mpp,
        weights_sha256=model.weights_sha256,
    )
    return phenotypes, found_in


def _features(stains: Sequence[str]) -> tuple[str, ...]:
    """What phenotypes are distinguished by: size, elongation, intensity and texture of the nuclear stain, intensity of
    the other stain.

    The other stain's texture is left out: on a nucleus it is mostly the rim of a neighbour.
    """
    nuclear = [f"{stain}_od_{value}" for stain in stains[:1] for value in ("mean", "std")]
    return ("area_um2", "eccentricity", *nuclear, *(f"{stain}_od_mean" for stain in stains[1:]))


def _leading(features: Sequence[str]) -> int:
    """The feature that phenotypes are numbered by, lowest first: DAB if the slides have it, else size."""
    return features.index("dab_od_mean") if "dab_od_mean" in features else 0


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _sample_slides(
    paths: Sequence[Path], settings: Settings, model: Model, on_progress: OnProgress
) -> tuple[list[dict[str, Float32Array]], list[str]]:
    """Measured cells of each slide, and the stains, the same for all slides.

    A slide that fails is left out: it fails again, and is reported, when it is run.
    """
    samples: list[dict[str, Float32Array]] = []
    failures: list[Exception] = []
    stained: dict[tuple[str, ...], Path] = {}
    for number, path in enumerate(paths):
        on_progress(number, len(paths))
        try:
            seen = survey_slide(
                slide_source(path, settings), model, settings.tissue, settings.roi, settings.stain, settings.force
            )
            samples.append(_sample_cells(path, seen, settings, len(paths)))
        except Exception as error:
            failures.append(error)
            continue
        stained.setdefault(tuple(stain_channels(seen.model)), path)
    on_progress(len(paths), len(paths))
    if not samples:
        raise PlanError(f"phenotypes are found in the slides, and none can be read: {sentence(failures[0])}")
    if len(stained) > 1:
        listed = "; ".join(f"{path} in {' and '.join(stains)}" for stains, path in stained.items())
        raise SettingsError(
            f"phenotypes are found in slides of one stain, but these differ: {listed}. Run them separately"
        )
    return samples, list(*stained)


def _sample_cells(path: Path, seen: Survey, settings: Settings, slides: int) -> dict[str, Float32Array]:
    """Measurements of a slide's share of the cells, evenly sampled from its share of the sample windows."""
    model, halo = seen.model, seen.model.halo
    choice = settings.device if settings.scheduler is None else "auto"
    device = choose_device(choice, settings.precision).suited(model)
    most = max(1, _MOST_WINDOWS // slides)
    tables = []
    with dataclasses.replace(slide_source(path, settings), fill=seen.fill).open() as slide:
        for box in seen.boxes[:: -(-len(seen.boxes) // most)]:
            pixels = read_mirrored(slide, Box(box.y, box.x, model.window, model.window).pad(halo), model.mpp)
            maps = predict(model, pixels[None], device)[0, :, halo : halo + box.h, halo : halo + box.w]
            tables.append(_complete_cells(model, np.ascontiguousarray(maps), seen.frame.px_um2))
    cells = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    count = len(cells["area_um2"])
    rows = np.linspace(0, count - 1, min(count, _MOST_CELLS // slides)).astype(int)
    return {name: values[rows] for name, values in cells.items()}


def _complete_cells(model: Model, maps: UInt8Array, px_um2: float) -> dict[str, Float32Array]:
    """Measurements of the cells in a window's maps (c, h, w) that do not touch its border."""
    found = model.instances(maps)
    sums = label_sums(found.labels, len(found.classes), maps)
    low, high = sums.boxes[:, :2], sums.boxes[:, :2] + sums.boxes[:, 2:]
    complete = np.flatnonzero(((low > 0) & (high < maps.shape[1:])).all(axis=1))
    return cell_table(model, found, sums, complete, (0, 0), px_um2).measurements
