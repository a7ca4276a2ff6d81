"""Cells of one result by class: count, density, size and staining intensity.

python examples/cells_to_pandas.py OUT/slide [table.csv]
"""

from __future__ import annotations

import sys

import pandas as pd

import wsiproc


def table_of(folder: str) -> pd.DataFrame:
    """One row per class: cells, cells per mm² of tissue, means of the measurements."""
    result = wsiproc.open(folder)
    measured = ["area_um2", *(name for name in result.measurements if name.endswith("_od_mean"))]
    by_class = result.table(["class", *measured]).groupby("class", observed=False)
    table = by_class[measured].mean().add_prefix("mean ")
    table.insert(0, "cells", by_class.size())
    table.insert(1, "cells/mm²", pd.Series(result.run["counts"]["in_tissue"]) / result.numbers.tissue_mm2)
    return table


if __name__ == "__main__":
    found = table_of(sys.argv[1])
    print(found.round(2).to_string())
    if len(sys.argv) > 2:
        found.to_csv(sys.argv[2])
