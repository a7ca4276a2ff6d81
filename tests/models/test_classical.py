from pathlib import Path

import numpy as np
import numpy.typing as npt
import skimage.data
import torch

from wsiproc.models.builtin.classical import Classical


def ihc() -> npt.NDArray[np.uint8]:
    """Real colon tissue, haematoxylin and DAB."""
    picture: npt.NDArray[np.uint8] = skimage.data.immunohistochemistry()
    return picture


def predict(model: Classical, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    maps: npt.NDArray[np.uint8] = model.predict(torch.tensor(picture)[None])[0].numpy()
    return maps


def test_nothing_beyond_the_halo_matters() -> None:
    model = Classical().calibrate([ihc()])
    halo = model.halo
    changed = np.random.default_rng(0).integers(0, 256, ihc().shape, dtype=np.uint8)
    changed[100 - halo : 400 + halo, 100 - halo : 400 + halo] = ihc()[100 - halo : 400 + halo, 100 - halo : 400 + halo]
    inner = (slice(None), slice(100, 400), slice(100, 400))
    assert (predict(model, ihc())[inner] == predict(model, changed)[inner]).all()


def test_dab_is_a_stain_and_no_class_of_the_model() -> None:
    model = Classical().calibrate([ihc()])
    assert model.classes == ("Nucleus",)
    assert [c.name for c in model.channels if c.stain] == ["hematoxylin", "dab"]
    found = model.instances(predict(model, ihc()))
    assert len(found.classes) > 40
    assert not found.classes.any()
    assert (found.scores > 0.5).all()


def test_the_stain_of_real_tiles_is_told(data: Path) -> None:
    from PIL import Image

    kinds = {}
    for folder in ("breast_HE", "kidney_HE", "skin-morphea_HE", "OS2_Ki67-IHC", "duodenum-net_SYN-IHC"):
        tiles = [np.asarray(Image.open(p).convert("RGB")) for p in sorted((data / "corpus" / folder).glob("*.jpg"))[:3]]
        kinds[folder] = Classical(mpp=0.25).calibrate(tiles).stains.kind
    assert kinds == {name: "H&E" if name.endswith("HE") else "H-DAB" for name in kinds}


def test_glass_has_no_nuclei() -> None:
    model = Classical().calibrate([ihc()])
    for grey in (255, 240, 225):
        assert predict(model, np.full((300, 300, 3), grey, np.uint8))[0].max() < 40


def test_samples_without_tissue_leave_textbook_stains() -> None:
    model = Classical().calibrate([np.full((64, 64, 3), 243, np.uint8)])
    assert model.stains.standard
    assert model.calibration()["textbook_vectors"] is True
