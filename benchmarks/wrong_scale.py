"""How often a wrong µm/px is noticed, and how often a correct one is doubted.

    python benchmarks/wrong_scale.py DATA [--fit] [--nuclei] [--slides-only] [--most 2]

Images of known scale are read as if their µm/px were 1/2, 2/3, 1, 3/2 and 2 times the true value; each alone, and all
of a folder together, like the samples of a slide. Slides of DATA/slides and DATA/corpus/regions are surveyed as in
`wsiproc plan`. ``--fit``: only print the weights, fitted on every second folder of the corpus, and the errors of these
folders and of MoNuSeg, on which the tolerance was chosen, when each is left out in turn. ``--nuclei``: only print how
much the sizes of true nuclei vary between images of one scale, which bounds what any of their sizes can tell.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from wsiproc.array.scale import (
    LOOKED_AT_MPP,
    SHIFTS,
    ApparentScale,
    blurred,
    log2_factor,
    radial_profile,
    scale_of,
    seen_at,
)
from wsiproc.array.stains import estimate_stains
from wsiproc.core.types import Float64Array
from wsiproc.io.slides.open import SlideSource
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.staining import sample_pixels
from wsiproc.pipeline.planning.survey import survey_slide

FACTORS = (0.5, 2 / 3, 1.0, 1.5, 2.0)
TOLERANCES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.67, 0.8)
RIDGE, BLURS_UM = 0.04, (0.0, 0.4, 0.8)
JUDGES = {
    "monuseg": ("monuseg_train/images", 0.25), "monuseg, without labels": ("monuseg_train/images", 0.25),
    "bcdata": ("bcdata_dev/images", 0.25), "tnbc": ("judges/tnbc/images", 0.25),
    "brca-m2c": ("judges/brca_m2c/images", 0.51), "nucls": ("nucls/segmentation/images", 0.25),
    "nucls-points": ("nucls/detection/images", 0.25),
}  # fmt: skip
CHOOSING = ("monuseg",)
# As the manifest of the corpus has them; the first nine are estimates, off by up to a quarter.
CORPUS_MPP = {
    "colon_HE": 0.5, "kidney_HE": 0.5, "liver-sarcoma_HE": 0.5, "pituitary_HE": 0.5, "ovary_HE": 0.5,
    "meningioma_HE": 0.4, "skin-molluscum_HE": 0.4, "lymphnode_HE": 0.35, "esophagus_HE": 0.3,
    "OS2_Ki67-IHC": 0.2271, "OS1_HE": 0.2271, "EAS2-core_CD20-IHC": 0.263, "duodenum-net_SYN-IHC": 0.263,
    "stomach-ectopic-pancreas_HE": 0.263, "liver_HE": 0.263, "lung_HE": 0.263, "pancreas_HE": 0.2633,
    "skin-morphea_HE": 0.2633,
}  # fmt: skip
SLIDES = (
    "slides/CMU-1-Small-Region.svs", "slides/he_20x.ome.tif", "slides/EAS2_HE1_20x.tif", "slides/EAS2_CD20_ihc_20x.tif",
    "corpus/regions/stomach-signet-ring_HE_pa.tif", "corpus/regions/pancreas_CK7-p40-IHC_pa.tif",
)  # fmt: skip

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """Pictures of a slide or set; whether something was chosen on them, and whether weights were fitted on them."""

    name: str
    paths: list[Path]
    mpp: float
    chose: bool
    fitted: bool

    def scale(self, path: Path) -> float:
        """µm/px of a picture."""
        return 0.3461 if path.name.startswith("os-OS-2-vsi") else self.mpp  # another scanner


def sources(data: Path) -> list[Source]:
    """All folders of the corpus, every second of which is fitted on, and the judges."""
    folders = sorted(path for path in (data / "corpus").iterdir() if path.name.endswith(("_HE", "-IHC")))
    found = [
        Source(folder.name, _pictures(folder), CORPUS_MPP.get(folder.name, 0.2528), i % 2 == 0, i % 2 == 0)
        for i, folder in enumerate(folders)
    ]
    for name, (folder_name, mpp) in JUDGES.items():
        paths = _pictures(data / folder_name)
        if name.startswith("monuseg"):
            labels = data / "monuseg_train/labels"
            paths = [path for path in paths if (labels / f"{path.stem}.png").exists() == (name == "monuseg")]
        found.append(Source(name, paths, mpp, name in CHOOSING, False))
    return found


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png", ".tif"))


def as_read(path: Path, given: float) -> Picture:
    """A picture as a run would read it at 0.5 µm/px if its own were ``given``."""
    picture, zoom = np.asarray(Image.open(path).convert("RGB")), given / LOOKED_AT_MPP
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=how), np.uint8)


def looked_at(window: Picture) -> tuple[Float64Array, float] | None:
    """The profile of a window of H&E, and its area in mm²; None for another stain and for glass."""
    stains = estimate_stains(sample_pixels([window], LOOKED_AT_MPP))
    found = radial_profile(window, stains, LOOKED_AT_MPP) if stains.kind == "H&E" else None
    return None if found is None else (found, window.shape[0] * window.shape[1] * LOOKED_AT_MPP**2 / 1e6)


def judged(found: list[tuple[Float64Array, float]]) -> ApparentScale:
    """By which factor the scale seems wrong."""
    return scale_of([each for each, _ in found], sum(mm2 for _, mm2 in found))


# --- fitting ---------------------------------------------------------------------------------------------------------


def fit(rows: list[tuple[str, Float64Array]]) -> tuple[npt.NDArray[np.float64], float]:
    """Ridge regression of the shift on what is seen at it, sources weighing alike: weights (12,) and bias."""
    shifts = SHIFTS[6:-6:2]
    rows = [(name, blurred(each, sigma)) for sigma in BLURS_UM for name, each in rows]
    names = [name for name, _ in rows]
    share = np.repeat([1 / names.count(name) for name in names], len(shifts))
    share /= share.sum()
    seen = np.array([seen_at(each, shift) for _, each in rows for shift in shifts])
    target = np.tile(-shifts, len(rows))
    mean = share @ seen
    spread = np.sqrt(share @ (seen - mean) ** 2) + 1e-6
    scaled = (seen - mean) / spread
    squares = (scaled * share[:, None]).T @ scaled + RIDGE * np.eye(seen.shape[1])
    weights = np.linalg.solve(squares, (scaled * share[:, None]).T @ (target - share @ target)) / spread
    return weights, float(share @ target - mean @ weights)


def print_fit(data: Path) -> None:
    """Weights, and how far sources that are left out in turn are off at the right scale."""
    rows = {source.name: profiles(source) for source in sources(data) if source.chose}
    rows = {name: found for name, found in rows.items() if found}
    fitted = [source.name for source in sources(data) if source.fitted and source.name in rows]
    weights, bias = fit([(name, each) for name in fitted for each in rows[name]])
    print(f"weights {', '.join(f'{w:.3f}' for w in weights)}; bias {bias:.3f}")
    alone, together = [], []
    for name, mine in rows.items():
        rule = fit([(other, each) for other in fitted if other != name for each in rows[other]])
        alone += [log2_factor([each], *rule) for each in mine]
        together.append(log2_factor(mine, *rule))
    print(f"folders at the right scale: {', '.join(f'{n} {v:+.2f}' for n, v in zip(rows, together, strict=True))}")
    centre = float(np.mean(together))
    print(f"centre {centre:.2f}; pictures off by {np.std(alone):.2f}, folders by {np.std(together):.2f} (log2)")


def profiles(source: Source) -> list[Float64Array]:
    """Of all pictures of H&E, at their own scale."""
    found = (looked_at(as_read(path, source.scale(path))) for path in source.paths)
    return [each[0] for each in found if each is not None]


# --- scoring ---------------------------------------------------------------------------------------------------------


def print_pictures(data: Path, most: int | None) -> None:
    """Shares of pictures, and of folders, that are noticed at each factor; and what other tolerances would give."""
    scales: dict[tuple[str, bool, float], list[ApparentScale]] = {}
    doubted = []
    for source in sources(data):
        for factor in FACTORS:
            looks = [looked_at(as_read(path, source.scale(path) * factor)) for path in source.paths[:most]]
            found = [each for each in looks if each is not None]
            if not found:  # DAB
                continue
            alone, together = [judged([each]) for each in found], judged(found)
            scales.setdefault(("pictures", source.chose, factor), []).extend(alone)
            scales.setdefault(("folders", source.chose, factor), []).append(together)
            told = sum(each.wrong for each in alone)
            if factor == 1 and (told or together.wrong):
                doubted.append(f"{source.name} {told} of {len(alone)}{', together too' * together.wrong}")
    print("| | of | " + " | ".join(f"× {factor:.2f}" for factor in FACTORS) + " |")
    print("| --- | --- |" + " --- |" * len(FACTORS))
    parts = [(title, chose) for title in ("pictures", "folders") for chose in (True, False)]
    for title, chose in parts:
        _print_shares(scales, title, chose, "", None)
    print("\nDoubted at the right scale: " + "; ".join(doubted))
    print("\nWith another tolerance for all (log2):\n")
    for title, chose in parts:
        for tolerance in TOLERANCES:
            _print_shares(scales, title, chose, f"{tolerance} | ", tolerance)


def _print_shares(
    scales: dict[tuple[str, bool, float], list[ApparentScale]],
    title: str,
    chose: bool,
    column: str,
    tolerance: float | None,
) -> None:
    """One row of shares of warnings; ``tolerance``: None for the package's own."""

    def warned(scale: ApparentScale) -> bool:
        return scale.wrong if tolerance is None else bool(abs(np.log2(scale.factor)) > tolerance)

    some = [scales[title, chose, factor] for factor in FACTORS]
    shares = " | ".join(f"{np.mean([warned(scale) for scale in each]):.1%}" for each in some)
    print(f"| {title}, {'chosen on' if chose else 'unseen'} | {column}{len(some[2])} | {shares} |", flush=True)


def print_slides(data: Path) -> None:
    """The likely µm/px of whole slides that are given five."""
    print("\n| slide | µm/px | " + " | ".join(f"× {factor:.2f}" for factor in FACTORS) + " |")
    print("| --- | --- |" + " --- |" * len(FACTORS))
    for name in SLIDES:
        with SlideSource(data / name).open() as slide:
            mpp = slide.mpp
        told = []
        for factor in FACTORS:
            seen = survey_slide(SlideSource(data / name, mpp * factor), Classical(), "auto", None)
            likely = seen.slide["likely_mpp"]
            warned = any("too large" in text or "too small" in text for text in seen.warnings)
            told.append(f"{'–' if likely is None else f'{likely:.2f}'}{', warned' if warned else ''}")
        print(f"| {Path(name).name} | {mpp:.3f} | {' | '.join(told)} |", flush=True)


def print_nuclei(data: Path) -> None:
    """Quantiles of √area of the labelled nuclei in each MoNuSeg image, and their spread over the images."""
    quantiles = (10, 25, 50, 75, 90)
    rows = []
    for path in sorted((data / "monuseg_train/labels").glob("*.png")):
        areas = np.bincount(np.asarray(Image.open(path)).ravel())[1:]
        rows.append(np.percentile(np.sqrt(areas[areas > 0]) * JUDGES["monuseg"][1], quantiles))
        print(f"{path.stem}: √area at {quantiles} %: {', '.join(f'{value:.1f}' for value in rows[-1])} µm")
    print(f"standard deviation over images, log2: {', '.join(f'{v:.2f}' for v in np.log2(rows).std(axis=0))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--nuclei", action="store_true")
    parser.add_argument("--slides-only", action="store_true")
    parser.add_argument("--most", type=int, help="pictures a folder, in the order of their names")
    given = parser.parse_args()
    if given.fit:
        print_fit(given.data)
    elif given.nuclei:
        print_nuclei(given.data)
    else:
        if not given.slides_only:
            print_pictures(given.data, given.most)
        print_slides(given.data)
