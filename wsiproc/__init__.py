"""Whole-slide images to cells: no labels, no downloads, no seams."""

from wsiproc._version import __version__

__all__ = ["__version__"]
