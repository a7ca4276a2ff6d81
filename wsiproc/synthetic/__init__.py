"""Slides with known truth, for tests, demonstrations and benchmarks.

``world``: where the tissue and the nuclei are; ``paint``: pixels of them; ``debris``: what is no tissue; ``scene``:
the three as pictures, labels and tables of any box; ``tiff``: a picture as a pyramidal file; ``slide``: all of it.
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
