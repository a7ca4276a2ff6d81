"""Nuclei in label maps: found, split, outlined, measured."""
