"""Slides of every format."""
