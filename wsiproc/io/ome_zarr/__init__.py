"""OME-Zarr images and labels."""
