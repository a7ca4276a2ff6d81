"""One file a format of slides."""
