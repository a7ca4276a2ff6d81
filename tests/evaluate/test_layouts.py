from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.evaluate.datasets_on_disk import SIDE, true_labels, write_aperio, write_masks, write_points
from wsiproc.errors import SettingsError
from wsiproc.evaluate.aperio import aperio_polygons
from wsiproc.evaluate.layouts import find_dataset, load_truth


def blank(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), "white").save(path)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    write_masks(tmp_path / "set", ["b", "a"])
    blank(tmp_path / "set" / "images" / "unlabelled.png")
    (tmp_path / "set" / "images" / "._a.png").write_bytes(b"left behind by a Mac")
    (tmp_path / "set" / "labels" / "Thumbs.db").write_bytes(b"left behind by Windows")
    return tmp_path / "set"


def test_pictures_are_paired_with_their_labels_by_name(masks: Path) -> None:
    found = find_dataset("monuseg", masks)
    assert (found.name, found.kind, found.classes, found.mpp) == ("monuseg", "labels", False, 0.25)
    assert [picture.name for picture in found.images] == ["a", "b"]
    assert found.without == ("unlabelled",)
    np.testing.assert_array_equal(load_truth(found.images[0].truth, (SIDE, SIDE)), true_labels(1))


def test_a_folder_speaks_for_itself_but_for_the_resolution(masks: Path) -> None:
    found = find_dataset(str(masks))
    assert (found.name, found.mpp, len(found.images)) == ("set", None, 2)
    assert [picture.name for picture in find_dataset(str(masks), limit=1).images] == ["a"]


def test_monuseg_as_it_is_published(tmp_path: Path) -> None:
    """TIFF pictures in one folder, XML in another; or both in one, as the test set is."""
    for place, other in (("Tissue Images", "Annotations"), ("test", "test")):
        for folder in (place, other):
            (tmp_path / place / folder).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / place / place / "TCGA-1.tif", np.zeros((SIDE, SIDE, 3), np.uint8))
        write_aperio(tmp_path / place / other / "TCGA-1.xml", true_labels(3))
        (found,) = find_dataset("monuseg", tmp_path / place).images
        assert found.name == "TCGA-1"
        np.testing.assert_array_equal(load_truth(found.truth, (SIDE, SIDE)), true_labels(3))


def test_points_are_compared_by_class_where_all_are_of_ki67(tmp_path: Path) -> None:
    for name in ("0", "1"):
        blank(tmp_path / "ki" / "images" / f"{name}.png")
    write_points(tmp_path / "ki" / "points" / "0.csv", [(3, 4, "Positive")])
    write_points(tmp_path / "ki" / "points" / "1.csv", [])
    found = find_dataset("bcdata", tmp_path / "ki")
    assert (found.kind, found.classes, found.mpp, len(found.images)) == ("points", True, 0.25, 2)
    write_points(tmp_path / "ki" / "points" / "1.csv", [(3, 4, "stroma")])
    assert not find_dataset(str(tmp_path / "ki")).classes


def test_regions_that_enclose_nothing_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    corners = "<Vertex X='1' Y='1'/><Vertex X='5' Y='1'/>"
    path.write_text(
        f"<Annotations><Region>{corners}</Region><Region>{corners}<Vertex X='5' Y='4'/></Region></Annotations>"
    )
    assert [polygon.area for polygon in aperio_polygons(path)] == [6]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<Annotations>", "not the XML"),
        ("<html/>", "<html>"),
        ("<Annotations><Region><Vertex X='1'/></Region></Annotations>", "not the XML"),
    ],
)
def test_other_xml_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(SettingsError, match=rf"a\.xml: .*{said}"):
        aperio_polygons(tmp_path / "a.xml")


def test_errors_say_what_is_there_and_what_is_missing(masks: Path, tmp_path: Path) -> None:
    def refused(said: str, name: str, folder: Path | None = None) -> None:
        with pytest.raises(SettingsError, match=said):
            find_dataset(name, folder)

    refused("'pannuke' is neither a dataset with a known layout .monuseg, .*bcdata. nor a folder", "pannuke", masks)
    refused("nor a folder", str(tmp_path / "gone"))
    refused("wsiproc benchmark monuseg FOLDER", "monuseg")
    refused("gone: no such folder", "monuseg", tmp_path / "gone")
    refused("the truth of bcdata is points, but the folder holds labels", "bcdata", masks)
    (tmp_path / "empty").mkdir()
    refused("not a benchmark dataset; that is", str(tmp_path / "empty"))
    (tmp_path / "empty" / "1.h5").touch()
    refused("HDF5 annotations are not read; write each", "bcdata", tmp_path / "empty")
    (masks / "labels" / "c.png").write_bytes((masks / "labels" / "a.png").read_bytes())
    refused("1 of 3 truths have no image with their name: c; the 3 images are called a, b", "monuseg", masks)
    blank(masks / "images" / "a.jpg")
    refused("have the same name", "monuseg", masks)
    for path in (masks / "images").iterdir():
        path.unlink()
    refused("no images found", "monuseg", masks)
    blank(masks / "images" / "a.png")
    for path in (masks / "labels").iterdir():
        path.unlink()
    refused("1 images, but no truths", "monuseg", masks)
