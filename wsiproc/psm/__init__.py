"""Learning to detect nuclei without labels: prior self-activation maps (Chen et al., MICCAI 2023, arXiv 2308.11144)."""
