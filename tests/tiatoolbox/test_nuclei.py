"""Cells out of the maps of TIAToolbox's models, and files of weights that are none; without TIAToolbox."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.tiatoolbox.drawn import maps_of, matched, tissue
from wsiproc.array.nuclei.measure import centroids, label_sums
from wsiproc.errors import ModelError
from wsiproc.io.ome_zarr.image import CHUNK
from wsiproc.models import load_model
from wsiproc.models.base import Model
from wsiproc.models.tiatoolbox.nuclei import HoVerNet, MicroNet, interior_of
from wsiproc.models.tiatoolbox.pretrained import PRETRAINED

PANNUKE = PRETRAINED["hovernet_fast-pannuke"]
KINDS = len(PANNUKE.types)


def model() -> HoVerNet:
    return HoVerNet(PANNUKE, "0" * 64, Path("nowhere.pth"))


def discs(shape: tuple[int, int], *places: tuple[int, int, int]) -> npt.NDArray[np.int32]:
    """Labels of discs (y, x, radius); a later one lies over an earlier one."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for number, (cy, cx, radius) in enumerate(places, 1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number
    return labels


def test_discs_that_touch_are_found_each_with_its_type() -> None:
    labels = discs((200, 300), (60, 60, 20), (60, 98, 20), (90, 79, 16), (140, 220, 12), (150, 60, 24))
    types = np.array([0, 3, 0, 4, 1, 2])
    found = model().instances(maps_of(labels, types, KINDS))
    pairs = matched(labels, found.labels)
    assert sorted(pairs) == [1, 2, 3, 4, 5]
    assert len(found.classes) == 5
    assert [int(found.classes[pairs[number] - 1]) for number in pairs] == types[list(pairs)].tolist()
    assert (found.scores > 0.85).all()


def test_the_borders_of_the_maps_tell_apart_what_the_shape_does_not() -> None:
    """A bar of two halves: one nucleus by its shape, two by the ways to their middles."""
    labels = np.zeros((80, 120), np.int32)
    labels[25:55, 30:60], labels[25:55, 60:90] = 1, 2
    maps = maps_of(labels, np.zeros(3, np.int64), KINDS)
    assert len(model().instances(maps).classes) == 2
    whole = maps_of((labels > 0).astype(np.int32), np.zeros(2, np.int64), KINDS)
    assert len(model().instances(whole).classes) == 1
    inside = interior_of(maps[3], maps[4])
    assert inside[40, 45] == inside[40, 75] == 255
    assert inside[40, 60] == 0


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_crowded_nuclei_are_found_with_their_types(noise: float) -> None:
    _, labels = tissue(700, seed=1)
    types = np.random.default_rng(1).integers(0, KINDS, labels.max() + 1)
    found = model().instances(maps_of(labels, types, KINDS, noise))
    pairs = matched(labels, found.labels)
    true = len(np.unique(labels)) - 1
    assert true > 150
    assert len(pairs) > 0.97 * true
    assert abs(len(found.classes) - true) < 0.03 * true
    right = [found.classes[theirs - 1] == types[mine] for mine, theirs in pairs.items()]
    assert np.mean(right) > 0.99


@pytest.mark.parametrize("name", ["hovernet_fast-pannuke", "micronet-consep"])
def test_cut_out_or_set_into_another_slide_the_cells_are_the_same(name: str) -> None:
    kind = MicroNet if name.startswith("micronet") else HoVerNet
    some = kind(PRETRAINED[name], "0" * 64, Path("nowhere.pth"))
    margin, side = some.margin, 200
    full = side + 2 * margin
    maps, other = (drawn(full + 100, seed) for seed in (1, 2))
    y, x = 37, 64
    other[:, y : y + full, x : x + full] = maps[:, y : y + full, x : x + full]
    alone = maps[:, y : y + full, x : x + full].copy()
    expected = cells_of(some, maps, (y + margin, x + margin), side)
    assert len(expected) > 15
    assert cells_of(some, other, (y + margin, x + margin), side) == expected
    assert cells_of(some, alone, (margin, margin), side) == expected


def drawn(side: int, seed: int) -> npt.NDArray[np.uint8]:
    _, labels = tissue(side, seed)
    types = np.random.default_rng(seed).integers(0, KINDS, labels.max() + 1)
    return maps_of(labels, types, KINDS, noise=0.5)


def cells_of(some: Model, maps: npt.NDArray[np.uint8], corner: tuple[int, int], side: int) -> list[tuple[object, ...]]:
    """Cells with their centres in a square: pixels from its corner on, class, score."""
    found = some.instances(maps)
    sums = label_sums(found.labels, len(found.classes), maps)
    centres = centroids(sums) - corner
    kept = np.flatnonzero(((centres >= 0) & (centres < side)).all(axis=1))
    cells = [(np.argwhere(found.labels == i + 1) - corner, found.classes[i], found.scores[i]) for i in kept]
    return sorted((tuple(map(tuple, pixels.tolist())), int(kind), float(score)) for pixels, kind, score in cells)


@pytest.mark.parametrize("facts", PRETRAINED.values(), ids=list(PRETRAINED))
def test_regions_are_whole_windows_and_models_travel(facts: object) -> None:
    some = model().__class__(facts, "0" * 64, Path("w.pth"))  # type: ignore[arg-type]
    assert CHUNK % some.window == 0
    assert some.window + 2 * some.halo == some.spec.sees
    assert pickle.loads(pickle.dumps(some)) == some
    assert len(pickle.dumps(some)) < 2000
    assert some.weights_sha256 in repr(some)
    assert "w.pth" not in repr(some), "a file that is moved holds the same model"


def test_the_model_without_types_knows_nuclei_alone() -> None:
    brown = np.full((300, 300, 3), (150, 100, 60), np.uint8)
    brown[::3] = (200, 200, 220)
    kumar = HoVerNet(PRETRAINED["hovernet_original-kumar"], "0" * 64, Path("w.pth"))
    assert kumar.classes == ("Nucleus",)
    assert kumar.calibrate([brown]).classes == ("Nucleus",)
    assert model().calibrate([brown]).classes == PANNUKE.types


def test_micro_net_is_brought_to_one_level_once_a_slide() -> None:
    samples = [np.full((50, 40, 3), 100, np.uint8), np.full((50, 40, 3), 200, np.uint8)]
    calibrated = MicroNet(PRETRAINED["micronet-consep"], "0" * 64, Path("w.pth")).calibrate(samples)
    assert calibrated.level == pytest.approx(150 / 255, abs=1e-6)
    assert calibrated.spread == pytest.approx(50 / 255, abs=1e-6)
    assert calibrated.calibration()["level"] == calibrated.level


def test_weights_that_are_not_there_are_answered_with_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"never downloaded: download hovernet_fast-pannuke\.pth manually from https://"
    ):
        load_model("tiatoolbox:hovernet_fast-pannuke")
    gone = tmp_path / "gone.pth"
    with pytest.raises(ModelError, match=r"gone\.pth: .*no such file; download .*=/path/to/hovernet_fast-pannuke\.pth"):
        load_model(f"tiatoolbox:hovernet_fast-pannuke={gone}")
    with pytest.raises(ModelError, match=r"no nucleus model 'hovernet-pannuke'; known are hovernet_fast-pannuke, "):
        load_model(f"tiatoolbox:hovernet-pannuke={gone}")


def test_weights_are_told_by_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"some")
    before = load_model(f"tiatoolbox:micronet-consep={path}")
    assert before.weights_sha256 == hashlib.sha256(b"some").hexdigest()
    assert before.name == "tiatoolbox:micronet-consep"
    path.write_bytes(b"others")
    assert load_model(f"tiatoolbox:micronet-consep={path}").weights_sha256 != before.weights_sha256
