"""The cut between negative and positive cells, and where DAB lies, found without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsiproc.models.builtin.classical import Classical
from wsiproc.pipeline.planning.scoring import RecognisedDab, find_cut, slide_scoring
from wsiproc.results.record import RecognisedRecord

TRUE_MPP = {"EAS2-core_CD20-IHC": 0.263, "OS2_Ki67-IHC": 0.2271, "duodenum-net_SYN-IHC": 0.263}


def tiles(folder: Path, mpp: float) -> list[npt.NDArray[np.uint8]]:
    """The pictures of one scanner in a folder at 0.5 µm/px."""
    found = []
    for path in sorted(folder.glob("*.jpg")):
        if "vsi" not in path.name:
            picture = Image.open(path).convert("RGB")
            side = round(picture.width * mpp / 0.5)
            found.append(np.array(picture.resize((side, side), Image.Resampling.BOX)))
    return found


@given(pale=st.floats(0.01, 0.05), brown=st.floats(0.2, 1.2), positive=st.integers(15, 400), seed=st.integers(0, 100))
def test_the_cut_lies_between_pale_and_brown_nuclei(pale: float, brown: float, positive: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    negatives, positives = rng.normal(pale, 0.005, 400), rng.normal(brown, 0.1 * brown, positive)
    cut, how = find_cut(np.concatenate([negatives, positives]), "nuclei")
    assert negatives.max() < cut < positives.min()
    assert "Otsu" in how


@pytest.mark.parametrize("dab", [np.full(10, 0.5), np.random.default_rng(0).normal(0.04, 0.01, 500), np.zeros(500)])
def test_where_there_is_nothing_to_find_the_usual_value_is_taken(dab: npt.NDArray[np.float64]) -> None:
    cut, how = find_cut(dab, "nuclei")
    assert cut == 0.2
    assert how.startswith("usual value")


@pytest.mark.parametrize(
    ("folder", "compartment"),
    [("OS2_Ki67-IHC", "nucleus"), ("EAS2-core_CD20-IHC", "cytoplasm"), ("duodenum-net_SYN-IHC", "cytoplasm")],
)
def test_where_dab_lies_is_recognised(data: Path, folder: str, compartment: str) -> None:
    samples = tiles(data / "corpus" / folder, TRUE_MPP[folder])
    found = slide_scoring(Classical().calibrate(samples), samples, "auto", None)
    assert found is not None
    assert found.rule.compartment == compartment
    assert found.record().index is (compartment == "nucleus")
    assert bool(found.warnings()) is (compartment != "nucleus")
    if compartment == "cytoplasm":  # what is around nuclei is paler than nuclei that DAB lies over
        assert "rings around nuclei" in found.found.ring_how
        assert found.rule.cuts == (found.found.ring_cut,)
        assert found.found.ring_cut < found.found.cut
    given = slide_scoring(Classical().calibrate(samples), samples, "membrane", (0.1, 0.2, 0.3))
    assert given is not None
    assert (given.rule.compartment, given.rule.cuts, given.warnings()) == ("membrane", (0.1, 0.2, 0.3), [])
    assert given.rule.ring_cut == found.rule.ring_cut


def test_red_beside_brown_is_warned_of(data: Path) -> None:
    """p40 is in nuclei, brown; CK7 in cytoplasm, red."""
    samples = tiles(data / "corpus/pancreas_CK7-p40-IHC", 0.2528)[:3]
    found = slide_scoring(Classical().calibrate(samples), samples, "auto", None)
    assert found is not None
    assert found.rule.compartment == "nucleus"
    (warning,) = found.warnings()
    assert "red on 5" in warning
    told = found.found.record()
    assert RecognisedDab.of_record(told) == found.found
    earlier = RecognisedRecord.model_validate({n: value for n, value in told.as_dict().items() if n != "red_share"})
    assert not RecognisedDab.of_record(earlier).pattern.has_red_stain


def test_he_is_not_scored(data: Path) -> None:
    samples = tiles(data / "corpus/breast_HE", 0.25)[:2]
    assert slide_scoring(Classical().calibrate(samples), samples, "auto", None) is None
