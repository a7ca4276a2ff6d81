"""napari opens the folders, with the reader that its users install."""

from __future__ import annotations

import numpy as np
import pytest

from tests.results.napari_layers import layers
from wsiproc.results.result import Result


def test_napari_opens_the_overview_with_its_labels(result: Result) -> None:
    shown = layers(str(result.folder / "slide.ome.zarr"))
    (image,) = [layer for layer in shown.values() if layer[2] == "image"]
    assert image[1]["channel_axis"] == 0
    labels = {name.rsplit("/")[-1]: layer for name, layer in shown.items() if layer[2] == "labels"}
    assert set(labels) == {"cells", "classes", "tissue"}
    assert np.array_equal(np.asarray(labels["cells"][0][0]), np.asarray(result.labels["cells"].levels[0]))
    assert labels["classes"][1]["properties"]["name"] == ["Background", "Negative", "Positive"]
    # Every level is there, so that napari reads no more than it shows.
    assert len(labels["cells"][0]) == len(result.labels["cells"].levels)


def test_in_napari_overview_labels_and_maps_are_of_one_size_in_micrometers(result: Result) -> None:
    slide = layers(str(result.folder / "slide.ome.zarr"))
    shown = [*slide.values(), *layers(str(result.folder / "maps.ome.zarr")).values()]
    assert len(shown) == 5
    for data, meta, _ in shown:
        pixels = np.array(data[0].shape[-2:])
        assert meta["units"] == ("micrometer", "micrometer")
        assert pixels * meta["scale"] == pytest.approx((1400 * 0.25, 2200 * 0.25)), meta["name"]
