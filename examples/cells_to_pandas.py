"""Cells of one result by class: how many, how dense, how large, how strongly stained.

python examples/cells_to_pandas.py OUT/slide [table.csv]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import geopandas
import pandas as pd


def table_of(folder: Path) -> pd.DataFrame:
    """One row a class: cells, cells per mm² of tissue, means of the measurements."""
    cells = geopandas.read_parquet(folder / "cells.parquet")
    tissue_mm2 = json.loads((folder / "run.json").read_text(encoding="utf-8"))["tissue_mm2"]
    measured = ["area_um2", *(name for name in cells if name.endswith("_od_mean"))]
    by_class = cells.groupby("class", observed=False)
    table = by_class[measured].mean().add_prefix("mean ")
    table.insert(0, "cells", by_class.size())
    table.insert(1, "cells/mm²", table["cells"] / tissue_mm2)
    return table


if __name__ == "__main__":
    result = table_of(Path(sys.argv[1]))
    print(result.round(2).to_string())
    if len(sys.argv) > 2:
        result.to_csv(sys.argv[2])
