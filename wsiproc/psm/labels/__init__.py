"""Pseudo-labels: what the pixels of a slide say of themselves, without annotation."""
