"""TIAToolbox's nucleus models behind the model protocol."""
