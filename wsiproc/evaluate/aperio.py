"""Outlines drawn in Aperio ImageScope, the format that MoNuSeg is published in."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import shapely

from wsiproc.errors import SettingsError


def aperio_polygons(path: Path) -> list[shapely.Polygon]:
    """Outlines of all regions of an ImageScope XML file, in file order; (x, y), level-0 px from the image's corner.

    Coordinates count from the corner of the first pixel, not from its centre: rasterised so, MoNuSeg's outlines match
    the stain to 0.2 px. Label images that were rasterised by programs which count from pixel centres, such as
    scikit-image's ``draw.polygon``, are shifted half a pixel down and right; they are used as they are.
    Regions with fewer than three corners enclose nothing and are left out. SettingsError if it is not such a file.
    """
    try:
        root = ElementTree.parse(path).getroot()
        rings = [
            [(float(corner.attrib["X"]), float(corner.attrib["Y"])) for corner in region.iter("Vertex")]
            for region in root.iter("Region")
        ]
    except (ElementTree.ParseError, KeyError, ValueError, OSError) as error:
        raise SettingsError(f"{path}: not the XML of Aperio ImageScope: {error}; download it again") from error
    if root.tag != "Annotations":
        raise SettingsError(f"{path}: its root is <{root.tag}>, not <Annotations> as Aperio ImageScope writes it")
    return [shapely.Polygon(ring) for ring in rings if len(ring) >= 3]
