"""The nouns: boxes, regions, the grid, the cell table. numpy only."""
