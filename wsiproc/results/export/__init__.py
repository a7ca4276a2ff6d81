"""Results in formats of other tools."""
