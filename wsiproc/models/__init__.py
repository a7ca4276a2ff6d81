"""Models: what a model is, and those that come with the package."""
