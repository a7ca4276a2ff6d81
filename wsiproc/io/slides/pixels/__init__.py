"""From the samples in a file to RGB at the requested resolution."""
