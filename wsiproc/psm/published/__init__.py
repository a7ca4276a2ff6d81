"""The method as it was published, as a reference for ours."""
