"""What a slide stained with DAB is scored by: decided once, from its samples, before any cell is found.

The cut lies at half of Otsu's threshold between pale and brown nuclei, which is a quarter of what brown nuclei have on
average, since pale ones have next to nothing. The samples are looked at with the model ``classical``, whatever model
the run has: it is quick, and neither device nor precision matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsiproc.array.dab_pattern import DabPattern, dab_pattern
from wsiproc.array.nuclei.measure import label_sums
from wsiproc.array.nuclei.ring import ring_sums
from wsiproc.core.choices import Compartment, CompartmentChoice
from wsiproc.core.immuno import Scoring
from wsiproc.core.types import Float64Array, UInt8Array
from wsiproc.models.base import OD_STEP, Model, Recolours
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.device import Device
from wsiproc.models.inference import predict
from wsiproc.results.record import RecognisedRecord, ScoringRecord

MeasuredSamples = Sequence[UInt8Array]

_CPU = Device("cpu", "float32")
_FALLBACK = 0.2  # QuPath's default
_BOUNDS = 0.07, 0.4
_FEWEST_CELLS, _FEWEST_BROWN = 50, 10
_BROWN_OD = 0.15  # mean of brown nuclei, below which there are none


@dataclass(frozen=True)
class RecognisedDab:
    """What the samples of a slide tell. ``cut``: of nuclei, ``ring_cut``: of what is around them; ``how``: in words."""

    pattern: DabPattern
    cut: float
    ring_cut: float
    how: str
    ring_how: str

    @property
    def compartment(self) -> Compartment:
        """Where DAB lies; membrane is not told from cytoplasm."""
        return "nucleus" if self.pattern.nuclear else "cytoplasm"

    def record(self) -> RecognisedRecord:
        """For ``run.json``."""
        return RecognisedRecord(
            compartment=self.compartment,
            nucleus_dab_od=self.cut,
            nucleus_how=self.how,
            ring_dab_od=self.ring_cut,
            ring_how=self.ring_how,
            brown_share=self.pattern.share,
            roundness=self.pattern.roundness,
            blob_um2=self.pattern.blob_um2,
            red_share=self.pattern.red_share,
        )

    @classmethod
    def of_record(cls, told: RecognisedRecord) -> RecognisedDab:
        """What a finished slide's ``run.json`` tells."""
        pattern = DabPattern(told.brown_share, told.roundness, told.blob_um2, told.red_share)
        return cls(pattern, told.nucleus_dab_od, told.ring_dab_od, told.nucleus_how, told.ring_how)


@dataclass(frozen=True)
class SlideScoring:
    """The rule for a slide, what it was made from, and what the user should know."""

    rule: Scoring
    found: RecognisedDab
    given_compartment: bool
    given_cuts: bool

    def record(self) -> ScoringRecord:
        """For ``run.json``."""
        found = self.found
        nuclear = self.rule.compartment == "nucleus"
        return ScoringRecord(
            compartment=self.rule.compartment,
            compartment_from="given" if self.given_compartment else "recognised in samples",
            positive_dab_od=list(self.rule.cuts),
            positive_dab_from="given" if self.given_cuts else (found.how if nuclear else found.ring_how),
            ring_dab_od=self.rule.ring_cut,
            index=nuclear or self.given_compartment,
            recognised=found.record(),
        )

    def in_words(self) -> str:
        """What makes a cell positive, and whether there is an index."""
        told = self.record()
        return told.in_words() + ("" if told.index else " No index: DAB does not lie in nuclei.")

    def warnings(self) -> list[str]:
        """What the user should know before believing the index."""
        red = [
            f"besides brown there is red on {self.found.pattern.red_share:.0%} of the tissue, as of a second antibody: "
            "only DAB is scored, and some of the red is measured as DAB, so compare positive cells with the samples in "
            "report.html before using the index; --positive-dab sets another cut"
        ]
        return (red if self.found.pattern.has_red_stain else []) + self._compartment_warnings()

    def _compartment_warnings(self) -> list[str]:
        if self.found.compartment == "nucleus":
            return []
        if self.rule.compartment == "nucleus":
            return [
                "DAB looks membranous or cytoplasmic, but the nucleus is scored, as --compartment nucleus asks: the "
                "index is not to be trusted"
            ]
        if self.given_compartment:
            return []
        return [
            "DAB looks membranous or cytoplasmic, so there is no index of nuclei: a cell is positive by the DAB around "
            "its nucleus. Nuclei that DAB covers are not found, so look at the samples in "
            "report.html before using the share of positive cells; --compartment names what counts (nucleus, membrane "
            "or cytoplasm)"
        ]


def slide_scoring(
    model: Model, samples: MeasuredSamples, compartment: CompartmentChoice, positive_dab: tuple[float, ...] | None
) -> SlideScoring | None:
    """How the cells of a slide are scored; None where there is no DAB, or the model has classes of its own.

    ``model``: calibrated on ``samples`` (h, w, 3), windows of tissue at its resolution; ``compartment``: *auto* or the
    name of one; ``positive_dab``: cuts, None to have one found.
    """
    if not scores_dab(model):
        return None
    return scored_by(_look(model, samples), compartment, positive_dab)


def scored_by(
    found: RecognisedDab, compartment: CompartmentChoice, positive_dab: tuple[float, ...] | None
) -> SlideScoring:
    """The rule for a slide of which samples told what was ``found``, and what the user asks for."""
    chosen: Compartment = found.compartment if compartment == "auto" else compartment
    own = found.cut if chosen == "nucleus" else found.ring_cut
    rule = Scoring(chosen, positive_dab or (own,), found.ring_cut)
    return SlideScoring(rule, found, compartment != "auto", positive_dab is not None)


def scores_dab(model: Model) -> bool:
    """Whether a calibrated model's cells are negative or positive by DAB: it tells no classes of its own."""
    return len(model.classes) == 1 and any(c.stain and c.name == "dab" for c in model.channels)


def _look(model: Model, samples: MeasuredSamples) -> RecognisedDab:
    seen = model.recoloured(samples) if isinstance(model, Recolours) else samples
    finder = Classical(mpp=model.mpp).calibrate(seen, "H-DAB")
    measured = [_measure(finder, sample) for sample in seen]
    nuclei, rings = (np.concatenate([values[k] for values in measured]) for k in (0, 1))
    cut, how = find_cut(nuclei, "nuclei")
    ring_cut, ring_how = find_cut(rings[np.isfinite(rings)], "rings around nuclei")
    return RecognisedDab(dab_pattern(seen, finder.stains, model.mpp), cut, ring_cut, how, ring_how)


def _measure(finder: Classical, sample: UInt8Array) -> tuple[Float64Array, ...]:
    """DAB in the nuclei of a sample and in the rings around them, as optical density: two (N,)."""
    dab = next(i for i, channel in enumerate(finder.channels) if channel.name == "dab")
    maps = predict(finder, sample[None], _CPU)[0]
    cells = finder.instances(maps)
    sums = label_sums(cells.labels, len(cells.classes), maps)
    rings = ring_sums(cells.labels, sums, (0, 0), maps[0], maps[dab], finder.mpp)
    return sums.values[:, dab] / np.maximum(sums.areas, 1) * OD_STEP, rings.means() * OD_STEP


def find_cut(dab: Float64Array, what: str) -> tuple[float, str]:
    """The cut between cells with and without DAB (N,), optical density, and how it was found, in words."""
    from skimage.filters import threshold_otsu

    if len(dab) < _FEWEST_CELLS:
        return _FALLBACK, f"usual value: the samples hold {len(dab)} {what}, fewer than {_FEWEST_CELLS}"
    between = float(threshold_otsu(dab)) if dab.min() < dab.max() else 0.0  # type: ignore[no-untyped-call]
    brown = dab[dab > between]
    if len(brown) < _FEWEST_BROWN or brown.mean() < _BROWN_OD:
        return _FALLBACK, f"usual value: of {len(dab)} {what} in the samples, too few have DAB, or too little of it"
    cut = round(float(np.clip(between / 2, *_BOUNDS)), 2)
    return cut, f"half of Otsu's threshold ({between:.2f}) on the DAB of {len(dab)} {what} in the samples"
