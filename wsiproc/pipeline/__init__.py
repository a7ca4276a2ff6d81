"""Slides to results: READ ``slide.py`` FIRST."""

from __future__ import annotations

PRELOADED = (f"{__name__}.preload",)
"""Modules that worker processes have imported before they begin; importing them takes seconds."""
