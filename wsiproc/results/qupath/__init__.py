"""QuPath, both ways: cells in files that fit its memory, and corrections brought back."""
