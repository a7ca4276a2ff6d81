"""Addresses of the viewer, which a report and a cohort point into: they answer while ``wsiproc view`` runs."""

from __future__ import annotations

from urllib.parse import urlencode

VIEWER_PORT = 8421
"""Port of the viewer unless told otherwise."""


def viewer_address(slide: str, centre: tuple[float, float] | None = None, um: float = 0.25) -> str:
    """The page of a slide, by the name of its folder, on this machine.

    ``centre``: a place (y, x) in level-0 px, shown with ``um`` µm a px of the screen; None is the whole slide.
    """
    query = {"slide": slide}
    if centre is not None:
        query |= {"x": f"{centre[1]:.0f}", "y": f"{centre[0]:.0f}", "um": f"{um:g}"}
    return f"http://127.0.0.1:{VIEWER_PORT}/#{urlencode(query)}"
