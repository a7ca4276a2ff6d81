"""Files that are no slides for wsiproc but well known: what each is, and what to do with it."""

from __future__ import annotations

import re
from pathlib import Path

_HEAD_BYTES = 512
EXPORT = "export it as OME-TIFF or SVS with the software of its scanner, or convert it with Bio-Formats"
_UNPACK = "unpack it, and pass the slide that is in it"
_CONVERT = "convert it to TIFF or PNG"
_COPY = "copy or download the slide again"
# First bytes → what that is, and the remedy.
_KNOWN: tuple[tuple[bytes, str, str], ...] = (
    (rb"PK\x03\x04", "a ZIP archive (a zipped OME-Zarr too)", _UNPACK),
    (rb"\x1f\x8b", "compressed by gzip", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed archive", _UNPACK),
    (rb".{257}ustar", "a tar archive", _UNPACK),
    (rb"version https://git-lfs", "a placeholder of Git LFS, not the slide itself", "fetch the slide: git lfs pull"),
    (rb"\s*(<!doctype html|<html)", "a web page, such as an error or a login page", _COPY),
    (rb"\x00{64}", "nothing but zeros where it begins: a copy or download that was not finished", _COPY),
    (rb"%PDF", "a PDF document", "pass the slide itself"),
    (rb"<DataObject ObjectType=.DPUfsImport", "an iSyntax slide of Philips, which is not read", EXPORT),
    (rb"KFB", "a KFB slide of KFBIO, which is not read", EXPORT),
    (rb"SQ\x00|SIS\x00", "a part of a slide in a format that is not read", EXPORT),
    (rb"\x89HDF", "an HDF5 file (Imaris, Omnyx …), which is not read", EXPORT),
    (rb"\xff\x0a|\x00{3}\x0cJXL ", "a JPEG XL image outside of a TIFF, which is not read", _CONVERT),
    (rb".{4}ftyp(heic|heix|mif1|msf1)", "a HEIC image, which is not read", _CONVERT),
    (rb"8BPS", "a Photoshop document, which is not read", _CONVERT),
    (rb"\s*<(\?xml[^>]*>\s*<)?svg", "a vector drawing (SVG), which is not read", _CONVERT),
    (rb".{0,200}<OME ", "the metadata (OME-XML) of a slide", "pass the TIFF with the pixels that lies beside it"),
)


def what_it_is(path: Path) -> tuple[str, str] | None:
    """What kind of other file this is, and what to do; None where that is not known."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    for start, what, remedy in _KNOWN:
        if re.match(start, head, re.IGNORECASE | re.DOTALL):
            return what, remedy
    return None


def pixels_elsewhere(path: Path) -> str | None:
    """Why the images in a TIFF are not the slide, whose pixels are in other files; None where they may be.

    Olympus (.vsi): the file has an overview and a label, the folder ``_name_`` beside it the scan.
    """
    if path.suffix.lower() != ".vsi":
        return None
    return f"an overview and label only; the scan of this Olympus slide is in {path.parent / f'_{path.stem}_'}"
