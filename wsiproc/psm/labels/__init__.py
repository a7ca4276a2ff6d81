"""Pseudo-labels: labels derived from the pixels themselves, without annotation."""
