"""The published method, as a reference implementation."""
