"""Write a synthetic slide with its ground truth, and read the truth back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile

from wsiproc.core.choices import SceneStain
from wsiproc.core.geometry import Box, Grid
from wsiproc.core.paths import make_place
from wsiproc.core.types import OnProgress, UInt8Array, UInt32Array
from wsiproc.errors import SettingsError
from wsiproc.executors import available_cores
from wsiproc.synthetic.scene import LOOKS, Scene, Truth
from wsiproc.synthetic.tiff import TIFF_TILE_PX, Encoder, in_order, write_tiff_pyramid

_SCENE_KEY = b"wsiproc.scene"
_TRUTH_STEP_PX = 1024
_ROW_GROUP = 65536


@dataclass(frozen=True)
class SyntheticTruth:
    """The result: the slide, its table, the label image (None unless requested), the scene, cells per class."""

    path: Path
    table_path: Path
    labels_path: Path | None
    scene: Scene
    counts: dict[str, int]

    @property
    def cells(self) -> int:
        """Number of nuclei."""
        return sum(self.counts.values())


def write_synthetic_slide(
    path: str | Path,
    shape: tuple[int, int] = (4096, 4096),
    *,
    mpp: float = 0.25,
    seed: int = 0,
    tissue_fraction: float = 0.4,
    stain: SceneStain = "HE",
    look: str = "bright",
    crowding: float = 0.5,
    positive_fraction: float = 0.3,
    debris: int = 0,
    labels: bool = False,
    workers: int | None = None,
    progress: OnProgress | None = None,
) -> SyntheticTruth:
    """Write ``path`` (pyramidal TIFF), ``<stem>.truth.parquet`` and, with ``labels``, ``<stem>.labels.tif``.

    The other arguments are those of :class:`Scene`; the same ones give the same pixels and the same truth.
    ``workers`` threads (default: all cores that may be used); ``progress(tiles done, tiles)``. Memory is a few rows of
    tiles.
    Raises SettingsError for impossible arguments, OutputError where no file can be, OSError if one cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in {".tif", ".tiff"}:
        raise SettingsError(f"{path}: a synthetic slide is a TIFF; give it a name that ends in .tif")
    scene = Scene(shape, mpp, seed, tissue_fraction, stain, look, crowding, positive_fraction, debris)
    workers = workers or available_cores()
    labels_path = path.with_name(f"{path.stem}.labels.tif") if labels else None
    for file in filter(None, (path, _table_path(path), labels_path)):
        make_place(file)
    encoder = Encoder(scene.background, LOOKS[look].jpeg_quality)
    write_tiff_pyramid(path, shape, mpp, partial(_draw, scene), encoder, scene.to_json(), workers, progress)
    counts = _write_table(_table_path(path), scene, workers)
    if labels_path:
        _write_labels(labels_path, scene)
    return SyntheticTruth(path, _table_path(path), labels_path, scene, counts)


def read_scene(path: str | Path) -> Scene:
    """The scene of a synthetic slide, from the slide or from its truth table; raises SettingsError if it is neither."""
    path = Path(path)
    text: str | None = None
    if path.suffix == ".parquet":
        text = (pq.read_schema(path).metadata or {}).get(_SCENE_KEY, b"").decode()
    elif path.suffix.lower() in {".tif", ".tiff"}:
        with tifffile.TiffFile(path) as tif:
            text = tif.pages.first.description
    if not text or not text.startswith('{"recipe"'):
        raise SettingsError(f"{path}: neither a slide nor a truth table written by wsiproc synth")
    return Scene.from_json(text)


def truth_labels(source: str | Path | Scene, box: Box) -> UInt32Array:
    """(h, w) uint32 true ids in ``box`` (slide px), rendered from the scene; 0 is background."""
    scene = source if isinstance(source, Scene) else read_scene(source)
    return scene.labels(box)


def _table_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.truth.parquet")


def _draw(scene: Scene, box: Box) -> UInt8Array | None:
    """The image of a box; None if it is only background, which is cheap to find out."""
    return None if scene.is_background(box) else scene.render(box)


def _write_table(path: Path, scene: Scene, workers: int) -> dict[str, int]:
    """Write the truth in row groups, region by region in raster order; returns the cells per class."""
    counts = np.zeros(len(scene.classes), np.int64)
    schema = _schema(scene)
    part = path.with_name(f".{path.name}.part")
    with pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for truth in _batches(scene, workers):
            counts += np.bincount(truth.classes, minlength=len(counts))
            writer.write_table(_to_arrow(truth, scene, schema), row_group_size=_ROW_GROUP)
    os.replace(part, path)
    return dict(zip(scene.classes, counts.tolist(), strict=True))


def _batches(scene: Scene, workers: int) -> Iterator[Truth]:
    """All nuclei, collected into batches that fill a row group."""
    boxes = (region.box for region in Grid(scene.shape, _TRUTH_STEP_PX))
    waiting: list[Truth] = []
    with ThreadPoolExecutor(workers) as pool:
        busy = (box for box in boxes if not scene.is_background(box))
        for truth in in_order((partial(scene.truth, box) for box in busy), pool, prefetch=2 * workers):
            waiting.append(truth)
            if sum(map(len, waiting)) >= _ROW_GROUP:
                yield Truth.concat(waiting)
                waiting = []
    if waiting:
        yield Truth.concat(waiting)


def _schema(scene: Scene) -> pa.Schema:
    columns = [("id", pa.uint32()), ("class", pa.string()), ("centroid_y", pa.float64()), ("centroid_x", pa.float64())]
    columns += [(name, pa.int32()) for name in ("area_px", "box_y", "box_x", "box_h", "box_w")]
    return pa.schema(columns, metadata={_SCENE_KEY: scene.to_json().encode()})


def _to_arrow(truth: Truth, scene: Scene, schema: pa.Schema) -> pa.Table:
    names = np.asarray(scene.classes, object)[truth.classes]
    columns = [truth.ids, names, *truth.centroids.T, truth.areas_px, *truth.boxes.T]
    return pa.table([pa.array(np.ascontiguousarray(column)) for column in columns], schema=schema)


def _write_labels(path: Path, scene: Scene) -> None:
    """The whole label image, tile by tile (tiled TIFF, uint32, deflate)."""
    rows, cols = (-(-side // TIFF_TILE_PX) for side in scene.shape)
    boxes = (
        Box(row * TIFF_TILE_PX, col * TIFF_TILE_PX, TIFF_TILE_PX, TIFF_TILE_PX)
        for row in range(rows)
        for col in range(cols)
    )
    tifffile.imwrite(
        path,
        (scene.labels(box) for box in boxes),
        shape=scene.shape,
        dtype=np.uint32,
        tile=(TIFF_TILE_PX, TIFF_TILE_PX),
        compression="zlib",
        bigtiff=scene.shape[0] * scene.shape[1] * 4 > 2**31,
        metadata=None,
    )
