"""Outlines that were drawn in Aperio ImageScope, as MoNuSeg is published."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import shapely

from wsiproc.errors import SettingsError


def aperio_polygons(path: Path) -> list[shapely.Polygon]:
    """Outlines of all regions of an ImageScope XML file, in its order; (x, y), level-0 px from the picture's corner.

    The numbers count from the corner of the first pixel, not from its centre: so drawn, MoNuSeg's outlines lie where
    the stain is, to 0.2 px. Label images of it that were drawn by programs which count from centres, such as
    scikit-image's ``draw.polygon``, lie half a pixel too far down and right; they are taken as they are.
    Regions of fewer than three corners enclose nothing and are left out. SettingsError where it is no such file.
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
