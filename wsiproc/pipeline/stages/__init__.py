"""The stages of a slide, a file each."""
