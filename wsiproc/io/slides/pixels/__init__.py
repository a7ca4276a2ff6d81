"""From what a file holds to RGB at the wanted resolution."""
