"""Basic types: boxes, regions, the grid, the cell table. Depends on numpy only."""
