import dataclasses
import hashlib
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file

from tests.models.small_networks import INPUT, NUMBERS, unet
from wsiproc.errors import ModelError
from wsiproc.models import load_model
from wsiproc.models.folder import CARD, CONFIG_FILE, WEIGHTS, DistilledConfig, read_folder, write_folder

HOSTILE_CODE = b"cos\nsystem\n(S'touch stolen'\ntR."
FACTS_FOR_TEST = DistilledConfig(name="m", mpp=0.5, network=NUMBERS, input=INPUT, training={"slides": [1, 2]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "m", FACTS_FOR_TEST, unet(0).state_dict(), "# Card")
    return tmp_path / "m"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the parsed configuration of a folder."""
    table = tomllib.loads((folder / CONFIG_FILE).read_text())
    change(table)
    (folder / CONFIG_FILE).write_text(tomli_w.dumps(table))


def rehash(folder: Path) -> None:
    """Make the facts vouch for whatever weights are there."""
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    edit(folder, lambda table: table.update(weights_sha256=digest))


def use(folder: Path) -> None:
    """Load the model and its network."""
    load_model(str(folder)).predict(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))


def test_what_is_written_is_read_back(folder: Path) -> None:
    facts = read_folder(folder)
    assert dataclasses.replace(facts, weights_sha256="") == FACTS_FOR_TEST
    assert facts.weights_sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert (folder / CARD).read_text() == "# Card"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["m"]
    use(folder)


def test_a_model_is_replaced_whole_and_other_folders_are_left_alone(folder: Path, tmp_path: Path) -> None:
    before = read_folder(folder)
    (folder / "picture.png").write_bytes(b"of the old model")
    write_folder(folder, FACTS_FOR_TEST, unet(1).state_dict(), "# New")
    assert read_folder(folder).weights_sha256 != before.weights_sha256
    assert sorted(p.name for p in folder.iterdir()) == [CARD, CONFIG_FILE, WEIGHTS]
    (folder / "more").mkdir()
    (folder / "more/text.md").write_text("years of work")
    with pytest.raises(ModelError, match="other than a model"):
        write_folder(folder, FACTS_FOR_TEST, unet(1).state_dict(), "")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/text.md").write_text("years of work")
    with pytest.raises(ModelError, match="other than a model"):
        write_folder(tmp_path / "thesis", FACTS_FOR_TEST, unet(1).state_dict(), "")
    assert (tmp_path / "thesis/text.md").exists()


def test_facts_that_could_not_be_read_are_not_written(tmp_path: Path) -> None:
    for wrong in ({"mpp": -1.0}, {"name": "../../etc"}, {"name": 5}, {"mpp": float("nan")}):
        with pytest.raises(ModelError, match=next(iter(wrong))):
            write_folder(tmp_path / "m", dataclasses.replace(FACTS_FOR_TEST, **wrong), {}, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(format=2), "Upgrade wsiproc"),
        (lambda t: t.pop("format"), "format is None"),
        (lambda t: t.update(kind="oracle"), "unknown kind 'oracle'; known are distilled, activation"),
        (lambda t: t.update(kind=["distilled"]), "unknown kind"),
        (lambda t: t.update(weights="../../secret.safetensors"), "unknown key weights"),
        (lambda t: t["network"].update(code="import os"), "unknown key network.code"),
        (lambda t: t["cut"].pop("threshold"), "cut.threshold missing"),
        (lambda t: t.pop("input"), "input missing"),
        (lambda t: t.pop("mpp"), "mpp"),
        (lambda t: t.update(mpp="0.5"), "mpp"),
        (lambda t: t.update(mpp=float("inf")), "mpp"),
        (lambda t: t["network"].update(widths=[10**9]), "network.widths"),
        (lambda t: t["network"].update(outputs=7), "network.outputs"),
        (lambda t: t["split"].update(reach_um=1e9), "split.reach_um"),
        (lambda t: t.update(int8_peaks=[1.0] * 9), "int8_peaks has 9 numbers; the network has 10 ReLUs"),
        (lambda t: t.update(int8_peaks=[0.0] * 10), "int8_peaks"),
        (lambda t: t.update(window=510), "multiple of 4"),
        (lambda t: t.update(name="../../../tmp/x"), "name"),
    ],
)
def test_facts_that_make_no_sense_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(ModelError, match=message) as caught:
        read_folder(folder)
    assert str(folder / CONFIG_FILE) in str(caught.value)


def test_a_model_from_before_int8_is_as_good(folder: Path) -> None:
    before = read_folder(folder)
    edit(folder, lambda table: table.pop("int8_peaks"))
    assert read_folder(folder) == before


def test_a_model_with_a_cut_of_positive_cells_is_as_good(folder: Path) -> None:
    """Earlier versions had one in each model."""
    before = read_folder(folder)
    text = (folder / CONFIG_FILE).read_text()
    (folder / CONFIG_FILE).write_text(text.replace("[cut]\n", "[cut]\npositive_dab_od = 0.33\n"))
    assert (folder / CONFIG_FILE).read_text() != text
    assert read_folder(folder) == before


def test_malformed_toml_is_one_sentence(folder: Path) -> None:
    (folder / CONFIG_FILE).write_bytes(b"format = \xff")
    with pytest.raises(ModelError, match="cannot be read"):
        read_folder(folder)
    (folder / CONFIG_FILE).write_text("[network\nkind=")
    with pytest.raises(ModelError, match=r"model\.toml cannot be read: .*line 1"):
        read_folder(folder)


def test_facts_nested_without_end_are_one_sentence(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text("a = " + "[" * 5000)
    with pytest.raises(ModelError, match=r"model\.toml cannot be read: maximum recursion"):
        read_folder(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS])
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=f"{name} cannot be read: a pipe"):
        read_folder(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=f"has no {WEIGHTS}: copy the whole"):
        read_folder(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=f"not a model folder: it has no {CONFIG_FILE}"):
        load_model(str(tmp_path / "empty"))


def test_weights_of_another_model_are_refused(folder: Path) -> None:
    other = folder.parent / "other"
    write_folder(other, FACTS_FOR_TEST, unet(1).state_dict(), "")
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    with pytest.raises(ModelError, match="Copy the whole model folder again"):
        load_model(str(folder))


def test_weights_changed_after_the_model_was_opened_are_refused(folder: Path) -> None:
    model = load_model(str(folder))
    write_folder(folder, FACTS_FOR_TEST, unet(1).state_dict(), "")
    with pytest.raises(ModelError, match="start a new run"):
        model.predict(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))


@pytest.mark.parametrize("length", [0, 5, 1000, -4])
def test_truncated_weights_are_damaged(folder: Path, length: int) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:length])
    with pytest.raises(ModelError, match="is not the file that"):
        read_folder(folder)
    rehash(folder)
    with pytest.raises(ModelError, match="damaged or not a safetensors"):
        use(folder)


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").write_bytes(HOSTILE_CODE)
    with pytest.raises(ModelError, match="is a pickle"):
        load_model("model.pt")
    (folder / WEIGHTS).rename(folder / "weights.pth")
    (folder / "weights.pth").write_bytes(HOSTILE_CODE)
    with pytest.raises(ModelError, match=r"weights\.pth is a pickle"):
        load_model(str(folder))
    (folder / WEIGHTS).write_bytes(HOSTILE_CODE)  # by another name
    rehash(folder)
    with pytest.raises(ModelError, match="not a safetensors"):
        use(folder)
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"head.weight": torch.zeros(3, 8, 1, 1)}), "size mismatch for head.weight"),
        (lambda t: t.pop("head.bias"), 'Missing key.*"head.bias"'),
        (lambda t: t.update(extra=torch.zeros(1)), 'Unexpected key.*"extra"'),
        (lambda t: t["head.weight"].fill_(float("nan")), "head.weight contains numbers that are not finite"),
    ],
)
def test_weights_must_fit_exactly(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    rehash(folder)
    with pytest.raises(ModelError, match=message):
        use(folder)


def test_half_precision_weights_are_read_as_single(folder: Path) -> None:
    tensors = {k: t.half() if t.is_floating_point() else t for k, t in unet(0).state_dict().items()}
    write_folder(folder, FACTS_FOR_TEST, tensors, "")
    use(folder)


def test_what_is_bundled_or_unknown_is_said() -> None:
    for name in ("psychic", "x" * 5000):
        with pytest.raises(ModelError, match="known are classical, default, fast, psm"):
            load_model(name)
