"""Slides as scanners write them: small MIRAX, DICOM and NDPI files of an image whose pixels are known.

For ``fuzz.py`` and for the tests. The required content is documented by the readers:
https://openslide.org/formats/mirax/, https://openslide.org/formats/dicom/, https://openslide.org/formats/hamamatsu/
and, for DICOM, PS3.3 A.32.8 (VL Whole Slide Microscopy Image).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

Picture = npt.NDArray[np.uint8]

MPP = 0.5
_SLIDE_ID = "0123456789ABCDEF0123456789ABCDEF"
_UID = "1.2.826.0.1.3680043.8.498.1"
_WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"


def encode(pixels: Picture, kind: str) -> bytes:
    """A picture as JPEG (4:4:4) or PNG."""
    out = io.BytesIO()
    given: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(out, kind, **given)
    return out.getvalue()


def halve(picture: Picture) -> Picture:
    """Half the size, means of 2 × 2 px."""
    h, w = picture.shape[:2]
    return np.asarray(cv2.resize(picture, (w // 2, h // 2), interpolation=cv2.INTER_AREA), np.uint8)


# --- MIRAX -----------------------------------------------------------------------------------------------------------


def write_ndpi(path: Path, picture: Picture, levels: int = 3, planes: Sequence[int] = (0,)) -> None:
    """What OpenSlide takes for a Hamamatsu slide: one JPEG a level, with restart markers, and NDPI's own tags.

    The container is a classic TIFF whose offsets to directories have eight bytes, and after each directory the upper
    halves of its values: https://openslide.org/formats/hamamatsu/. ``planes``: z offset of each focal plane, the one at
    0 shows the picture, the others its negative.
    """
    out = io.BytesIO()
    out.write(b"II*\0" + bytes(8))
    link = 4
    # Each level's rows of 8 × 8 px blocks hold whole restart intervals.
    level = picture[:384, :512]
    for number in range(levels):
        for z in planes:
            link = _ndpi_page(out, level if z == 0 else 255 - level, number, z, link)
        level = halve(level)
    path.write_bytes(out.getvalue())


def _ndpi_page(out: io.BytesIO, level: Picture, number: int, z: int, link: int) -> int:
    """Append a picture of level ``number`` and its directory, named at ``link``; where the next link is."""
    h, w = level.shape[:2]
    jpeg = io.BytesIO()
    Image.fromarray(level).save(jpeg, "JPEG", quality=80, subsampling=0, restart_marker_blocks=16)
    data = jpeg.getvalue()
    start = out.tell()
    out.write(data)
    per_cm = out.tell()
    out.write(struct.pack("<II", round(1e4 / MPP / 2**number), 1))
    entries = [
        (256, 4, w), (257, 4, h), (259, 3, 7), (262, 3, 6), (273, 4, start), (277, 3, 3), (278, 4, h),
        (279, 4, len(data)), (282, 5, per_cm), (283, 5, per_cm), (284, 3, 1), (296, 3, 3), (65420, 4, 1),
        (65421, 11, struct.unpack("<I", struct.pack("<f", 20 / 2**number))[0]), (65424, 9, z & 0xFFFFFFFF),
    ]  # fmt: skip
    directory = out.tell()
    out.write(struct.pack("<H", len(entries)))
    for tag, kind, value in entries:
        out.write(struct.pack("<HHII", tag, kind, 1, value))
    following = out.tell()
    out.write(bytes(8) + bytes(4 * len(entries)))
    out.seek(link)
    out.write(struct.pack("<Q", directory))
    out.seek(0, io.SEEK_END)
    return following


def write_mrxs(
    path: Path,
    picture: Picture,
    *,
    kind: str = "JPEG",
    tile: int = 128,
    levels: int = 3,
    positions: str = "none",
    unscanned: Collection[tuple[int, int]] = (),
    fill: tuple[int, int, int] = (255, 255, 255),
) -> None:
    """``path`` (.mrxs) and its folder with Slidedat.ini, Index.dat and Data0000.dat.

    ``positions``: where the camera was for each image, "none", "buffer" (as it is) or "stitching" (compressed);
    ``unscanned``: (row, column) of images that the scanner left out; ``fill``: the colour to show there.
    """
    down, across = (-(-side // tile) for side in picture.shape[:2])
    canvas = np.full((down * tile, across * tile, 3), 255, np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    data, index = bytearray(), []
    for level in range(levels):
        concat = 2**level
        entries = []
        for row in range(0, down, concat):
            for col in range(0, across, concat):
                inside = [(r, c) for r in range(row, row + concat) for c in range(col, col + concat)]
                if all(place in unscanned for place in inside):
                    continue
                image = np.full((tile, tile, 3), 255, np.uint8)
                y, x = row // concat * tile, col // concat * tile
                part = canvas[y : y + tile, x : x + tile]
                image[: part.shape[0], : part.shape[1]] = part
                content = encode(image, kind)
                entries.append((row * across + col, len(data), len(content), 0))
                data += content
        index.append(entries)
        canvas = halve(canvas[: canvas.shape[0] // 2 * 2, : canvas.shape[1] // 2 * 2])
    records = []
    if positions != "none":
        raw = b"".join(struct.pack("<bii", 0, col * tile, row * tile) for row in range(down) for col in range(across))
        records.append(raw if positions == "buffer" else zlib.compress(raw))
    records.append(encode(np.full((60, 100, 3), 200, np.uint8), "JPEG"))  # the label
    spans = []
    for record in records:
        spans.append((len(data), len(record)))
        data += record
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(encode(canvas, "JPEG"))
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_mrxs_index(index, spans))
    bgr = fill[2] << 16 | fill[1] << 8 | fill[0]
    (folder / "Slidedat.ini").write_text("\n".join(_slidedat(across, down, tile, levels, kind, positions, bgr)) + "\n")


def _mrxs_index(levels: list[list[tuple[int, int, int, int]]], spans: list[tuple[int, int]]) -> bytes:
    """Index.dat: a page of images for each level, and a page for each record beside them."""
    out = bytearray(b"01.02" + _SLIDE_ID.encode() + bytes(8))
    roots = len(out) - 8

    def add(*numbers: int) -> int:
        place = len(out)
        out.extend(struct.pack(f"<{len(numbers)}i", *numbers))
        return place

    pages = [add(len(entries), 0, *(n for entry in entries for n in entry)) for entries in levels]
    heads = [add(0, page) for page in pages]
    struct.pack_into("<i", out, roots, add(*heads))
    pages = [add(1, 0, 0, 0, offset, size, 0) for offset, size in spans]
    heads = [add(0, page) for page in pages]
    struct.pack_into("<i", out, roots + 4, add(*heads))
    return bytes(out)


def _slidedat(across: int, down: int, tile: int, levels: int, kind: str, positions: str, bgr: int) -> Iterator[str]:
    """Lines of Slidedat.ini."""
    names = {"none": [], "buffer": ["VIMSLIDE_POSITION_BUFFER"], "stitching": ["StitchingIntensityLayer"]}[positions]
    yield from (
        "[GENERAL]", "SLIDE_VERSION = 02.00", f"SLIDE_ID = {_SLIDE_ID}", f"IMAGENUMBER_X = {across}",
        f"IMAGENUMBER_Y = {down}", "OBJECTIVE_MAGNIFICATION = 20", "CameraImageDivisionsPerSide = 1",
        "[HIERARCHICAL]", "HIER_COUNT = 1", f"NONHIER_COUNT = {len(names) + 1}", "INDEXFILE = Index.dat",
        "HIER_0_NAME = Slide zoom level", f"HIER_0_COUNT = {levels}",
    )  # fmt: skip
    for level in range(levels):
        yield f"HIER_0_VAL_{level} = ZoomLevel_{level}"
        yield f"HIER_0_VAL_{level}_SECTION = LAYER_0_LEVEL_{level}_SECTION"
    for number, name in enumerate(names):
        yield from (f"NONHIER_{number}_NAME = {name}", f"NONHIER_{number}_COUNT = 1")
        yield from (f"NONHIER_{number}_VAL_0 = default", f"NONHIER_{number}_VAL_0_SECTION = POSITIONS")
    last = len(names)
    yield from (f"NONHIER_{last}_NAME = Scan data layer", f"NONHIER_{last}_COUNT = 1")
    yield from (f"NONHIER_{last}_VAL_0 = ScanDataLayer_SlideBarcode", f"NONHIER_{last}_VAL_0_SECTION = LABEL")
    yield from ("[LABEL]", "BARCODE_IMAGE_TYPE = JPEG", "[POSITIONS]", "VIMSLIDE_POSITION_DATA_FORMAT_VERSION = 257")
    yield from ("[DATAFILE]", "FILE_COUNT = 1", "FILE_0 = Data0000.dat")
    for level in range(levels):
        yield from (
            f"[LAYER_0_LEVEL_{level}_SECTION]", f"IMAGE_CONCAT_FACTOR = {int(level > 0)}", "OVERLAP_X = 0",
            "OVERLAP_Y = 0", f"MICROMETER_PER_PIXEL_X = {MPP * 2**level}",
            f"MICROMETER_PER_PIXEL_Y = {MPP * 2**level}", f"IMAGE_FORMAT = {kind}", f"IMAGE_FILL_COLOR_BGR = {bgr}",
            f"DIGITIZER_WIDTH = {tile}", f"DIGITIZER_HEIGHT = {tile}",
        )  # fmt: skip


# --- DICOM -----------------------------------------------------------------------------------------------------------


def write_dicom(
    folder: Path,
    picture: Picture,
    *,
    tile: int = 128,
    levels: int = 3,
    files_a_level: int = 1,
    compressed: bool = False,
    sparse: bool = False,
    suffix: str = ".dcm",
    series: int = 1,
    beside: bool = True,
) -> list[Path]:
    """The files of a slide: its levels, each in so many files (a concatenation), and label and overview ``beside``.

    ``sparse``: each frame tells its place, else they stand in order; ``series``: number of the slide.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for level in range(levels):
        frames = list(_frames(picture, tile))
        source = f"{_UID}.{series}.9.{level}"
        each = -(-len(frames) // files_a_level)
        for part in range(0, len(frames), each):
            some = frames[part : part + each]
            kind = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"] if level else ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
            uid, mpp = f"{source}.{part + 1}", MPP * 2**level
            dataset = _dicom(series, uid, kind, picture.shape[:2], tile, mpp, some, compressed)
            if sparse or files_a_level > 1:
                _tell_places(dataset, some)
            if files_a_level > 1:
                dataset.SOPInstanceUIDOfConcatenationSource = source
                dataset.ConcatenationUID = f"{source}.0"
                dataset.InConcatenationNumber = part // each + 1
                dataset.InConcatenationTotalNumber = -(-len(frames) // each)
                dataset.ConcatenationFrameOffsetNumber = part
            paths.append(folder / f"level {level} part {part // each}{suffix}")
            dataset.save_as(paths[-1], enforce_file_format=True)
        picture = halve(picture)
    for name in ("LABEL", "OVERVIEW") if beside else ():
        pixels = np.full((tile, tile, 3), 180, np.uint8)
        kind = ["ORIGINAL", "PRIMARY", name, "NONE"]
        uid = f"{_UID}.{series}.8.{len(name)}"
        dataset = _dicom(series, uid, kind, (tile, tile), tile, 30.0, [(0, 0, pixels)], compressed)
        paths.append(folder / f"{name.lower()}{suffix}")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def _frames(picture: Picture, tile: int) -> Iterator[tuple[int, int, Picture]]:
    """Row and column of the first px, and pixels, of each tile; those at the edge are filled up."""
    for y in range(0, picture.shape[0], tile):
        for x in range(0, picture.shape[1], tile):
            pixels = np.full((tile, tile, 3), 255, np.uint8)
            part = picture[y : y + tile, x : x + tile]
            pixels[: part.shape[0], : part.shape[1]] = part
            yield y, x, pixels


def _dicom(
    series: int, uid: str, kind: list[str], shape: tuple[int, ...], tile: int, mpp: float,
    frames: list[tuple[int, int, Picture]], compressed: bool,
) -> FileDataset:  # fmt: skip
    """One instance."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = _WSI, uid
    meta.TransferSyntaxUID = JPEGBaseline8Bit if compressed else ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = _WSI, uid
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{_UID}.{series}.1", f"{_UID}.{series}.2"
    data.Modality, data.ImageType = "SM", kind
    data.SamplesPerPixel, data.PlanarConfiguration, data.PixelRepresentation = 3, 0, 0
    data.PhotometricInterpretation = "YBR_FULL_422" if compressed else "RGB"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.Rows = data.Columns = tile
    data.NumberOfFrames = len(frames)
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = shape[:2]
    data.TotalPixelMatrixFocalPlanes = 1
    data.DimensionOrganizationType = "TILED_FULL"
    measures, path = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    path.OpticalPathIdentifier, path.ObjectiveLensPower = "1", 20
    data.OpticalPathSequence = [path]
    if compressed:
        data.PixelData = encapsulate([encode(pixels, "JPEG") for _, _, pixels in frames])
        data["PixelData"].VR = "OB"
    else:
        data.PixelData = b"".join(pixels.tobytes() for _, _, pixels in frames)
        data["PixelData"].VR = "OB"
    return data


def _tell_places(data: FileDataset, frames: list[tuple[int, int, Picture]]) -> None:
    """Write where each frame lies in the whole."""
    data.DimensionOrganizationType = "TILED_SPARSE"
    groups = []
    for y, x, _ in frames:
        place, group = Dataset(), Dataset()
        place.RowPositionInTotalImagePixelMatrix, place.ColumnPositionInTotalImagePixelMatrix = y + 1, x + 1
        place.XOffsetInSlideCoordinateSystem = place.YOffsetInSlideCoordinateSystem = "0"
        place.ZOffsetInSlideCoordinateSystem = "0"
        group.PlanePositionSlideSequence = [place]
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = groups
