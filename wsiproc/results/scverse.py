"""Cells as the objects of scverse: AnnData and SpatialData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsiproc.core.palette import RGB, css_colour
from wsiproc.core.types import UInt8Array
from wsiproc.errors import MissingExtraError

if TYPE_CHECKING:
    import geopandas
    import pandas
    from anndata import AnnData

    from wsiproc.io.ome_zarr.pyramids import Pyramid

# Where there are no cells whose size could be drawn.
_USUAL_NUCLEUS_UM = 8.0


def cells_anndata(
    cells: pandas.DataFrame, measurements: Sequence[str], classes: Mapping[str, RGB], facts: Mapping[str, Any]
) -> AnnData:
    """A row a cell: ``X`` (N, measurements) float32, ``obs`` class, score and id, ``obsm["spatial"]`` (N, 2) (x, y).

    ``uns["class_colors"]`` has the colours where scanpy and squidpy look for them, ``uns["wsiproc"]`` the ``facts``.
    """
    import pandas
    from anndata import AnnData

    names = pandas.Index(cells["id"].astype(str).to_numpy(), dtype=object)
    matrix = np.empty((len(cells), len(measurements)), np.float32)
    for column, name in enumerate(measurements):
        matrix[:, column] = cells[name]
    return AnnData(
        matrix,
        obs=cells[["class", "score", "id"]].set_index(names),
        var=pandas.DataFrame(index=pandas.Index(measurements, dtype=object)),
        obsm={"spatial": cells[["centroid_x", "centroid_y"]].to_numpy(np.float64)},
        uns={"class_colors": [css_colour(colour) for colour in classes.values()], "wsiproc": dict(facts)},
    )


def image_metadata_of(
    image: UInt8Array, slide_shape: tuple[int, int], mpp: float, areas_um2: npt.ArrayLike
) -> dict[str, Any]:
    """What ``uns["spatial"][slide]`` holds, so that squidpy and scanpy draw cells on their slide.

    ``image`` (h, w, 3): the overview; ``slide_shape`` (h, w): level-0 px; ``areas_um2`` (N,): cells become discs
    of their median area. The scale factors are px of the image and level-0 px, as in
    https://squidpy.readthedocs.io/en/stable/notebooks/tutorials/tutorial_read_spatial.html.
    """
    areas = np.asarray(areas_um2, np.float64)
    um = 2 * np.sqrt(np.median(areas) / np.pi) if len(areas) else _USUAL_NUCLEUS_UM
    factors = {
        "tissue_hires_scalef": max(image.shape[:2]) / max(slide_shape),
        "spot_diameter_fullres": float(um / mpp),
    }
    return {"images": {"hires": image}, "scalefactors": factors}


def join_slides(slides: Mapping[str, AnnData]) -> AnnData:
    """The cells of several slides, by name, in one table: what some slides do not measure is NaN there.

    ``obs["slide"]`` says whose a cell is, and its name begins with it: ``slide:17``. ``uns["spatial"]`` and
    ``uns["wsiproc"]`` have the facts of each slide by its name. Of a class in several slides the first says the colour.
    """
    import anndata
    import pandas

    colours: dict[str, str] = {}
    for name, cells in slides.items():
        cells.obs_names = pandas.Index([f"{name}:{number}" for number in cells.obs_names], dtype=object)
        for kind, colour in zip(cells.obs["class"].cat.categories, cells.uns["class_colors"], strict=True):
            colours.setdefault(str(kind), str(colour))
    joined = anndata.concat(dict(slides), label="slide", join="outer", fill_value=np.nan)
    joined.obs["class"] = pandas.Categorical(joined.obs["class"].astype(str), categories=list(colours))
    joined.uns = {
        "class_colors": list(colours.values()),
        "wsiproc": {name: cells.uns["wsiproc"] for name, cells in slides.items()},
        "spatial": {
            name: next(iter(cells.uns["spatial"].values())) for name, cells in slides.items() if "spatial" in cells.uns
        },
    }
    return joined


def cells_spatialdata(
    cells: geopandas.GeoDataFrame,
    table: AnnData,
    images: Mapping[str, Pyramid],
    labels: Mapping[str, Pyramid],
    slide_mpp: float,
) -> Any:
    """A SpatialData: images and labels by name, shapes ``cells``, and ``table``, which annotates them.

    Without cells there are no shapes, since SpatialData holds no empty ones, and the empty table annotates nothing.
    Coordinate systems: ``global``, level-0 px of the slide, and ``micrometers``. Raises ``MissingExtraError`` where
    spatialdata is not installed.
    """
    try:
        import spatialdata
        from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
    except ImportError as error:
        raise MissingExtraError(
            f"spatialdata cannot be imported ({error}); install it: pip install 'wsiproc[spatialdata]'"
        ) from error
    outlines = cells.set_index("id")[["geometry"]]
    some = len(outlines) > 0
    of_cells = {"region": "cells", "region_key": "region", "instance_key": "id"} if some else {}
    table.obs["region"] = table.obs["id"].map(lambda _: "cells").astype("category")
    return spatialdata.SpatialData(
        images={name: _multiscale(image, Image2DModel, ("c", "y", "x"), slide_mpp) for name, image in images.items()},
        labels={name: _multiscale(label, Labels2DModel, ("y", "x"), slide_mpp) for name, label in labels.items()},
        shapes={"cells": ShapesModel.parse(outlines, transformations=_systems(slide_mpp, (1.0, 1.0)))} if some else {},
        tables={"table": TableModel.parse(table, **of_cells)},
    )


def _multiscale(pyramid: Pyramid, model: Any, axes: tuple[str, ...], slide_mpp: float) -> Any:
    """All levels as they are in the file; spatialdata's own parser would compute them again."""
    from xarray import Dataset, DataTree

    options = {"c_coords": list(pyramid.channels)} if pyramid.channels else {}
    levels = {}
    for number, (level, mpp) in enumerate(zip(pyramid.levels, pyramid.mpp, strict=True)):
        scale = (mpp[0] / slide_mpp, mpp[1] / slide_mpp)
        array = model.parse(level, dims=axes, transformations=_systems(slide_mpp, scale), **options)
        levels[f"scale{number}"] = Dataset({"image": array})
    return DataTree.from_dict(levels)


def _systems(slide_mpp: float, scale: tuple[float, float]) -> dict[str, Any]:
    """From px of which one is ``scale`` (y, x) level-0 px to both coordinate systems."""
    from spatialdata.transformations import Scale

    um = [scale[0] * slide_mpp, scale[1] * slide_mpp]
    return {"global": Scale(list(scale), axes=("y", "x")), "micrometers": Scale(um, axes=("y", "x"))}
