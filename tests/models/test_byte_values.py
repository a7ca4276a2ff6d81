"""A table of what becomes of each byte gives what the function itself gives."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from wsiproc.models.networks.byte_values import as_uint8, by_lookup_table
from wsiproc.models.staining import optical_density

PICTURES = arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.just(3)))


@given(PICTURES, st.floats(-2, 2))
def test_a_function_of_bytes_is_the_same_by_its_table(pictures: np.ndarray, factor: float) -> None:
    def function(windows: Tensor) -> Tensor:
        channel = torch.arange(3.0)[:, None, None]
        return windows.permute(0, 3, 1, 2).float() * factor + channel

    found = by_lookup_table(function, torch.from_numpy(pictures))
    assert found.dtype == torch.float32
    assert torch.equal(found, function(torch.from_numpy(pictures)))


@given(PICTURES, st.tuples(*[st.floats(180, 255)] * 3))
def test_optical_density_is_that_of_each_pixel(pictures: np.ndarray, white: tuple[float, float, float]) -> None:
    found = optical_density(torch.from_numpy(pictures), white).numpy()
    expected = np.log10(np.array(white) / np.maximum(pictures, 1)).clip(0).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_bytes_are_cut_off_behind_the_point() -> None:
    values = torch.tensor([[0.0, 0.9, 1.0, 127.5, 254.99, 255.0]])
    assert as_uint8(values).tolist() == [[0, 0, 1, 127, 254, 255]]
    assert as_uint8(values).dtype == torch.uint8
