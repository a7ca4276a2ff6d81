"""TIAToolbox's nucleus models behind the protocol of a model."""
