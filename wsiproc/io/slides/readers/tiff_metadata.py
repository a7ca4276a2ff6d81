"""Metadata of a TIFF: pixel size, objective, samples, colour profile, orientation."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from wsiproc.errors import SlideError, SlideKindError
from wsiproc.io.slides.pixels.samples import Alpha, Colour, SampleFormat, kind_problem, names_fluorochrome
from wsiproc.io.slides.pyramid import SlideMetadata
from wsiproc.io.slides.readers.tiff_pages import TiffImage, page_shape
from wsiproc.io.slides.resolution import MICROMETRES

_COLOURS: dict[str, Colour] = {
    "RGB": "rgb",
    "YCBCR": "rgb",  # the JPEG codecs convert it
    "MINISBLACK": "grey",
    "MINISWHITE": "inverted grey",
    "PALETTE": "palette",
    "SEPARATED": "cmyk",
}
_ALPHA: dict[int, Alpha] = {1: "premultiplied", 2: "straight"}
# Attributes of an OME channel that indicate fluorescence.
_FLUORESCENT = ("EmissionWavelength", "ExcitationWavelength", "Fluor")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")


def name_of(value: Any) -> str:
    """Name of a TIFF enumeration; tifffile leaves unknown numbers as they are."""
    return str(getattr(value, "name", value))


def converts_to_rgb(page: Any) -> bool:
    """Whether decoding gives RGB: YCbCr is converted by the JPEG codecs only."""
    compression = name_of(page.compression)
    return name_of(page.photometric) != "YCBCR" or "JPEG" in compression or "JP2000" in compression


def find_samples(path: Path, pages: list[Any], full: float) -> SampleFormat:
    """How the samples of a level (one page, or three pages of one channel each) become RGB. Raises ``SlideKindError``
    for unknown colour spaces.
    """
    page = pages[0]
    photometric = name_of(page.photometric)
    count = page.samplesperpixel
    what = f"{count if len(pages) == 1 else len(pages)} channels of {page.dtype}, {photometric}"
    if (problem := kind_problem(page.dtype)) is not None:
        raise SlideKindError(f"{path}: the image has {what}: {problem}")
    if len(pages) == 3:
        return SampleFormat("rgb", full)
    colour = _COLOURS.get(photometric)
    if photometric == "YCBCR" and not converts_to_rgb(page):
        if tuple(getattr(page, "subsampling", None) or (1, 1)) != (1, 1):
            raise SlideError(f"{path}: the image has {what}, subsampled and without JPEG; convert it to RGB")
        colour = "ycbcr"
    colours = {"rgb": 3, "ycbcr": 3, "cmyk": 4}.get(colour or "", 1)
    if colour is None or not colours <= count <= colours + 1:
        raise SlideKindError(f"{path}: the image has {what}; wsiproc reads RGB brightfield slides: convert it to RGB")
    alpha: Alpha = "none"
    if count > colours:
        extra = page.extrasamples[0] if page.extrasamples else 0
        alpha = _ALPHA.get(int(extra), "none")  # nothing is known about an unspecified channel
    palette = None
    if colour == "palette":
        if page.colormap is None:
            raise SlideError(f"{path}: the image has {what} and no palette; the file is damaged: export it again")
        table = np.asarray(page.colormap).T
        palette = (table if table.max(initial=0) < 256 else table >> 8).astype(np.uint8)
    return SampleFormat(colour, full, alpha, palette)


def declared_bits(tiff: tifffile.TiffFile, page: Any, image: ElementTree.Element | None) -> int | None:
    """Bits in use of 16-bit samples as the file declares them; None if it does not."""
    if isinstance(page.bitspersample, int) and page.bitspersample < 16:
        return page.bitspersample
    pixels = None if image is None else _child(image, "Pixels")
    bits = None if pixels is None else pixels.get("SignificantBits")
    if bits is not None and bits.isdecimal():
        return int(bits)
    if "MaxSampleValue" in page.tags:
        largest = int(np.max(page.tags["MaxSampleValue"].value))
        return next((depth for depth in (8, 10, 12, 14, 16) if 0 < largest < 2**depth), None)
    return None


def read_tiff_metadata(
    tiff: tifffile.TiffFile, tiff_image: TiffImage, image: ElementTree.Element | None
) -> SlideMetadata:
    """Pixel size and objective from the OME-XML or ImageJ, else the pixel size from the resolution tags."""
    page = tiff_image.stacks[0][0]
    mpp, objective = (None, None) if image is None else _of_image(image, tiff)
    if tiff.is_imagej:
        mpp = _of_imagej(tiff, page)
    elif tiff.is_svs:  # if OpenSlide cannot read it
        mpp, objective = _of_aperio(page)
    properties = {
        name: str(page.tags[name].value)
        for name in ("Make", "Model", "Software", "DateTime", "ImageDescription")
        if name in page.tags and len(str(page.tags[name].value)) < 1000
    }
    remarks = {"level_order": tiff_image.order, "left_out": "; ".join(tiff_image.left_out)}
    if "InterColorProfile" in page.tags:
        remarks["icc_profile"] = "in the file; not applied"
    if (turn := orientation(page)) != 1:
        remarks["orientation"] = f"tag {turn}, honoured"
    return SlideMetadata(
        "ome-tiff" if tiff.is_ome else "generic-tiff",
        mpp or mpp_from_tags(page),
        objective,
        properties,
        warnings=tuple(tiff_image.warnings),
        remarks={name: text for name, text in remarks.items() if text},
    )


def orientation(page: Any) -> int:
    """Tag 274, 1 to 8."""
    value = page.tags["Orientation"].value if "Orientation" in page.tags else 1
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def mpp_from_tags(page: Any) -> tuple[float, float] | None:
    """(y, x) µm/px from XResolution and YResolution, if they have a unit."""
    unit_um = {2: MICROMETRES["inch"], 3: MICROMETRES["cm"]}.get(int(page.resolutionunit))
    return _from_resolution(page, unit_um)


def _from_resolution(page: Any, unit_um: float | None) -> tuple[float, float] | None:
    x, y = page.resolution
    if (x, y) == (1, 1):  # placeholders of writers that do not know the resolution
        return None
    return (unit_um / y, unit_um / x) if unit_um and x > 0 and y > 0 else None


def _of_aperio(page: Any) -> tuple[tuple[float, float] | None, float | None]:
    """Pixel size and objective from the text of Aperio's pages: ``… |AppMag = 20|MPP = 0.5``."""
    found = dict(part.split("=", 1) for part in str(page.description).split("|") if "=" in part)
    values = {key.strip(): _number(value.strip()) for key, value in found.items()}
    mpp = values.get("MPP")
    return None if mpp is None else (mpp, mpp), values.get("AppMag")


def _of_imagej(tiff: tifffile.TiffFile, page: Any) -> tuple[float, float] | None:
    """ImageJ writes px per unit into the resolution tags, and the unit into its own text."""
    written = str((tiff.imagej_metadata or {}).get("unit", ""))
    unit = _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), written).strip()
    return _from_resolution(page, MICROMETRES.get(unit))


# --- OME-XML ---------------------------------------------------------------------------------------------------------


def ome_image(tiff: tifffile.TiffFile, tiff_image: TiffImage) -> ElementTree.Element | None:
    """The Image element of the slide: the one with its size and, if there are several, its name."""
    if not (tiff.is_ome and tiff.ome_metadata):
        return None
    try:
        root = ElementTree.fromstring(tiff.ome_metadata)
    except ElementTree.ParseError:
        return None
    h, w = page_shape(tiff_image.stacks[0][0])
    fitting = []
    for image in (each for each in root.iter() if _tag(each) == "Image"):
        pixels = _child(image, "Pixels")
        if pixels is not None and (pixels.get("SizeY"), pixels.get("SizeX")) == (str(h), str(w)):
            fitting.append(image)
    named = [image for image in fitting if image.get("Name") == tiff_image.name]
    return next(iter(named or fitting), None)


def require_brightfield(path: Path, image: ElementTree.Element, pages: int) -> None:
    """Raise ``SlideKindError`` if the OME-XML says that channels are fluorescent."""
    if pages == 1:
        return
    channels = [each for each in image.iter() if _tag(each) == "Channel"]
    fluorescent = [each for each in channels if any(each.get(name) for name in _FLUORESCENT)]
    contrast = [each.get("ContrastMethod") for each in channels if each.get("ContrastMethod") == "Fluorescence"]
    if fluorescent or contrast or names_fluorochrome(each.get("Name", "") for each in channels):
        names = ", ".join(str(each.get("Name") or each.get("Fluor") or "?") for each in channels)
        raise SlideKindError(
            f"{path}: a fluorescence image (channels {names}); wsiproc reads RGB brightfield slides such as H&E, so "
            "no cells can be found in it"
        )


def _of_image(image: ElementTree.Element, tiff: tifffile.TiffFile) -> tuple[tuple[float, float] | None, float | None]:
    """Pixel size (y, x) and objective of an OME image."""
    root = ElementTree.fromstring(tiff.ome_metadata or "")
    powers = {each.get("ID"): each.get("NominalMagnification") for each in root.iter() if _tag(each) == "Objective"}
    settings = _child(image, "ObjectiveSettings")
    used = None if settings is None else settings.get("ID")
    power = powers.get(used) if used else next(iter(powers.values()), None)
    pixels = _child(image, "Pixels")
    sizes = [None if pixels is None else _physical_size(pixels, axis) for axis in "YX"]
    y, x = sizes
    return (y, x) if y and x else None, _number(power)


def _physical_size(pixels: ElementTree.Element, axis: str) -> float | None:
    """PhysicalSize of an axis in µm; the unit is µm unless said otherwise (OME schema)."""
    size, unit = _number(pixels.get(f"PhysicalSize{axis}")), pixels.get(f"PhysicalSize{axis}Unit", "µm").strip()
    return size * MICROMETRES[unit] if size and unit in MICROMETRES else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else 0.0
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _child(element: ElementTree.Element, tag: str) -> ElementTree.Element | None:
    return next((each for each in element if _tag(each) == tag), None)


def _tag(element: ElementTree.Element) -> str:
    """The element's name without its schema version's namespace."""
    return element.tag.rpartition("}")[2]
