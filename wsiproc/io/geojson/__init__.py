"""GeoJSON: cells out, annotations in."""
