"""Synthetic slides with known ground truth, for tests, demonstrations and benchmarks.

``world``: positions of tissue and nuclei; ``paint``: their pixels; ``debris``: everything but tissue; ``scene``:
images, labels and tables of any box; ``tiff``: pyramidal files; ``slide``: the complete slide with its truth.
"""

from wsiproc.synthetic.scene import CLASSES, LOOKS, Scene, Truth
from wsiproc.synthetic.slide import SyntheticTruth, read_scene, truth_labels, write_synthetic_slide

__all__ = [
    "CLASSES",
    "LOOKS",
    "Scene",
    "SyntheticTruth",
    "Truth",
    "read_scene",
    "truth_labels",
    "write_synthetic_slide",
]
