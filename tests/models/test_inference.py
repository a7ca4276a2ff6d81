"""Batches through a model: devices, precision, order, and what happens where memory runs short."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.small_networks import picture
from wsiproc.core.choices import Precision
from wsiproc.core.types import UInt8Array
from wsiproc.errors import SettingsError
from wsiproc.models import device as devices
from wsiproc.models import load_model
from wsiproc.models.base import Model
from wsiproc.models.device import Cluster, Device, choose_device, fast_bfloat16, fast_int8
from wsiproc.models.inference import predict, predict_each
from wsiproc.models.networks.int8 import self_test
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.planning.plan import device_for, run_identity, work_key
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import write_synthetic_slide

in_bytes = pytest.mark.skipif(
    not fast_int8() or bool(self_test()), reason="this processor, or this PyTorch, does not multiply int8 exactly"
)
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@dataclass
class Counting:
    """Stands for a model on a device with room for so many windows; gives back their first channel."""

    room: int
    sizes: list[int] = field(default_factory=list)

    def predict(self, windows: Tensor) -> Tensor:
        """See Model."""
        self.sizes.append(len(windows))
        if len(windows) > self.room:
            raise torch.cuda.OutOfMemoryError("no room")
        return windows[..., :1].permute(0, 3, 1, 2)


def numbered(count: int) -> UInt8Array:
    """Windows that can be told apart."""
    return np.stack([np.full((4, 4, 3), number, np.uint8) for number in range(count)])


def default_window() -> tuple[Model, UInt8Array]:
    model = load_model("default")
    side = model.window + 2 * model.halo
    pixels = picture(seed=7, side=side)
    return model.calibrate([pixels]), pixels[None]


def test_a_batch_without_room_is_halved_until_it_fits() -> None:
    model = Counting(room=2)
    maps = predict(model, numbered(7), Device())  # type: ignore[arg-type]
    assert maps[:, 0, 0, 0].tolist() == list(range(7))
    assert model.sizes[0] == 7
    assert max(size for size in model.sizes if size <= model.room) == 2


def test_a_window_without_room_is_an_error() -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        predict(Counting(room=0), numbered(2), Device())  # type: ignore[arg-type]


def test_batches_come_back_in_order_and_are_taken_when_needed() -> None:
    taken = []

    def batches() -> Iterator[UInt8Array]:
        for number in range(5):
            taken.append(number)
            yield np.full((1, 4, 4, 3), number, np.uint8)

    found = predict_each(Counting(room=1), batches(), Device())  # type: ignore[arg-type]
    maps, seconds = next(found)
    assert taken == [0]
    assert maps.max() == 0
    assert seconds >= 0
    assert [int(maps.max()) for maps, _ in found] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["default", "psm"])
def test_half_precision_changes_maps_little(name: str) -> None:
    """On this processor it may be slow; the numbers are the same."""
    model, window = default_window()
    if name == "psm":
        model = load_model("psm").calibrate([window[0]])
        window = window[:, : model.window + 2 * model.halo, : model.window + 2 * model.halo]
    exact = predict(model, window, Device()).astype(int)
    apart = np.abs(predict(model, window, Device("cpu", "bfloat16")) - exact)
    assert apart.max() > 0  # or it was no half precision
    assert apart.mean() < 0.5
    assert np.percentile(apart, 99) <= 6
    stains = [channel.stain for channel in model.channels]
    assert apart[:, stains].max() == 0  # what is measured in cells is never computed in half precision


def test_auto_takes_what_the_processor_is_fast_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsiproc.models.device.may_have_gpu", lambda: False)
    monkeypatch.setattr("wsiproc.models.device.int8_failure", str)
    wide = "bfloat16" if fast_bfloat16() else "float32"
    assert choose_device("auto").precision == ("int8" if fast_int8() else wide)
    expected: list[tuple[set[str], Precision]] = [
        ({"avx512bf16", "avx512vnni"}, "int8"),
        ({"avxvnni"}, "int8"),
        ({"avx512bf16"}, "bfloat16"),
        ({"avx2"}, "float32"),
    ]
    for features, precision in expected:
        monkeypatch.setattr("wsiproc.models.device.cpu_has", features.__contains__)
        assert choose_device("cpu") == Device("cpu", precision)
        assert choose_device("auto", "float32") == Device("cpu", "float32")


@in_bytes
def test_a_pytorch_whose_operators_differ_is_told_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_self_test: None
) -> None:
    """Arguments in another order, as releases have had them; a run goes on in more bits and says why."""
    real = torch.ops.onednn.qconv2d_pointwise.binary
    monkeypatch.setattr(torch.ops.onednn.qconv2d_pointwise, "binary", lambda *given: real(*given[1:], given[0]))
    found = choose_device("cpu")
    assert found == Device("cpu", "bfloat16" if fast_bfloat16() else "float32")
    assert f"PyTorch {torch.__version__} cannot compute in int8 here (" in found.note
    assert found.suited(load_model("default")).note == found.note
    assert not found.suited(load_model("psm")).note  # it computes in no bytes anyway
    with pytest.raises(SettingsError, match=r"precision is int8, but PyTorch .* cannot .*; use --precision auto"):
        choose_device("cpu", "int8")
    slide = tmp_path / "small.tif"
    write_synthetic_slide(slide, (700, 700), mpp=0.5, seed=5, tissue_fraction=0.5)
    (outcome,) = run_slides([slide], tmp_path / "out", Settings(device="cpu", executor="loop", workers=1))
    assert outcome.folder is not None
    run = json.loads((outcome.folder / "run.json").read_text())
    assert run["precision"] == found.precision
    assert found.note in run["warnings"]


@in_bytes
@pytest.mark.parametrize("operator", ["qconv_prepack", "qconv2d_pointwise"])
@pytest.mark.parametrize("error", [AttributeError, NotImplementedError, RuntimeError, TypeError])
def test_an_operator_that_raises_is_not_used(
    operator: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch, fresh_self_test: None
) -> None:
    def failing(*given: object) -> None:
        raise error("expected another argument\nand more")

    monkeypatch.setattr(torch.ops.onednn, operator, failing)
    found = choose_device("cpu")
    assert found == Device("cpu", "bfloat16" if fast_bfloat16() else "float32")
    assert found.note.endswith("(expected another argument). Another PyTorch may do better")
    with pytest.raises(SettingsError, match=r"cannot compute in int8 here \(expected another argument\); use"):
        choose_device("cpu", "int8")


@in_bytes
def test_workers_of_a_cluster_try_the_operators() -> None:
    """They load PyTorch anyway, so nothing is taken for granted on machines that nobody has seen."""
    code = (
        "import sys, wsiproc.models.device as d\n"
        "d.int8_failure = lambda: f'loaded: {\"torch\" in sys.modules}'\n"
        "print(d.probe_device().no_int8)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "loaded: True"


@in_bytes
def test_operators_that_compute_something_else_are_not_used(
    monkeypatch: pytest.MonkeyPatch, fresh_self_test: None
) -> None:
    real = torch.ops.onednn.qconv2d_pointwise.binary
    monkeypatch.setattr(torch.ops.onednn.qconv2d_pointwise, "binary", lambda *given: real(*given) // 2)
    assert "computes wrong results in int8 here (" in choose_device("cpu").note


@in_bytes
def test_the_self_test_leaves_the_numbers_that_others_draw(fresh_self_test: None) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert self_test() == ""
    assert torch.equal(torch.rand(3), expected)


@pytest.fixture
def fresh_self_test() -> Iterator[None]:
    """As in a process that has not tried yet."""
    self_test.cache_clear()
    yield
    self_test.cache_clear()


@pytest.mark.skipif(not fast_int8(), reason="this processor does not multiply int8 exactly")
def test_releases_that_were_tried_compute_in_bytes() -> None:
    """So that tests in bytes are not skipped for ever where nobody looks."""
    if ".".join(torch.__version__.split(".")[:2]) in devices._TRIED_INT8:
        assert self_test() == ""


@in_bytes
@pytest.mark.parametrize(
    ("release", "feature", "loaded"),
    [("2.13", "avx512vnni", False), ("2.13", "avxvnni", True), ("9.9", "avx512vnni", True)],
)
def test_pytorch_is_loaded_for_the_choice_only_where_it_was_not_tried(release: str, feature: str, loaded: bool) -> None:
    code = (
        f"import sys, wsiproc.models.device as d; d.version = lambda package: {release + '.0'!r}\n"
        f"d.may_have_gpu, d.cpu_has = lambda: False, {feature!r}.__eq__\n"
        "print(d.choose_device('auto').precision, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["int8", str(loaded)]


def test_a_precision_that_a_device_has_not_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu", "bfloat16") == Device("cpu", "bfloat16")
    with pytest.raises(SettingsError, match="float16, which networks on cpu do not support; choose one of auto"):
        choose_device("cpu", "float16")
    monkeypatch.setattr("wsiproc.models.device.may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SettingsError, match="int8, which networks on cuda do not support"):
        choose_device("cuda", "int8")
    monkeypatch.setattr("wsiproc.models.device.cpu_has", lambda feature: False)
    with pytest.raises(SettingsError, match=r"this processor does not multiply int8 exactly \(no VNNI\); use"):
        choose_device("cpu", "int8")
    asked = Device("cpu", "int8", None)
    assert asked.suited(load_model("classical")) == Device()  # it has no network
    with pytest.raises(SettingsError, match="model 'psm' cannot run in int8; use --precision auto"):
        asked.suited(load_model("psm"))


def test_a_gpu_computes_in_half_precision_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsiproc.models.device.may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == Device("cuda", "float16")
    assert choose_device("cuda", "float32") == Device("cuda", "float32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").name == "cpu"
    with pytest.raises(SettingsError, match="finds no CUDA device"):
        choose_device("cuda")


def test_work_of_another_precision_is_other_work() -> None:
    model = load_model("default")
    keys = {
        work_key(run_identity("slide", Settings(), model, device))
        for device in (Device(), Device("cpu", "bfloat16"), Device("cpu", "int8"), Device("cuda", "float16"))
    }
    assert len(keys) == 4


def test_a_model_without_a_network_keeps_its_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its work can go on on any processor."""
    monkeypatch.setattr("wsiproc.models.device.cpu_has", lambda feature: True)
    monkeypatch.setattr("wsiproc.models.device.int8_failure", str)
    settings = Settings(device="cpu")
    assert device_for(load_model("classical"), settings, None) == Device("cpu", "float32")
    assert device_for(load_model("default"), settings, None) == Device("cpu", "int8")
    assert device_for(load_model("psm"), settings, None) == Device("cpu", "bfloat16")  # it has no int8
    monkeypatch.setattr("wsiproc.models.device.cpu_has", "avxvnni".__eq__)
    assert device_for(load_model("psm"), settings, None) == Device("cpu", "float32")
    workers = Cluster(Device("cuda", "float16"), 8, 1)
    assert device_for(load_model("classical"), settings, workers) == Device("cuda", "float32")
    assert device_for(load_model("default"), settings, workers) == workers.device


def test_kinds_are_found_in_the_precision_that_a_model_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of others may fail under autocast on a CPU, and need not be in half precision what they are in full."""
    monkeypatch.setattr("wsiproc.models.device.cpu_has", lambda feature: True)
    seen: list[Device] = []

    def looked(model: Model, windows: UInt8Array, device: Device) -> UInt8Array:
        seen.append(device)
        return predict(model, windows, device)

    monkeypatch.setattr("wsiproc.pipeline.phenotypes.predict", looked)
    slide = tmp_path / "small.tif"
    write_synthetic_slide(slide, (900, 900), mpp=0.25, seed=5, tissue_fraction=0.9)
    settings = Settings(model="classical", device="cpu", executor="loop", workers=1, classes=2)
    (outcome,) = run_slides([slide], tmp_path / "out", settings)
    assert outcome.folder is not None
    assert set(seen) == {Device()}


def test_a_run_says_in_what_precision_it_was_made(tmp_path: Path) -> None:
    slide = tmp_path / "small.tif"
    write_synthetic_slide(slide, (900, 900), mpp=0.25, seed=5, tissue_fraction=0.5)
    settings = Settings(device="cpu", precision="float32", executor="loop", workers=1)
    (outcome,) = run_slides([slide], tmp_path / "out", settings)
    assert outcome.folder is not None
    run = json.loads((outcome.folder / "run.json").read_text())
    assert run["precision"] == run["made_with"]["precision"] == "float32"


@with_gpu
def test_a_gpu_gives_batches_in_order_while_others_are_on_their_way() -> None:
    model, window = default_window()
    batches = [np.roll(window, 50 * number, axis=1) for number in range(6)]
    device = choose_device("cuda")
    found = [maps for maps, seconds in predict_each(model, iter(batches), device) if seconds > 0]
    assert len(found) == len(batches)
    for maps, batch in zip(found, batches, strict=True):
        assert (maps == predict(model, batch, device)).all()
        apart = np.abs(maps.astype(int) - predict(model, batch, Device()))
        assert apart.mean() < 0.5
        assert np.percentile(apart, 99) <= 6
