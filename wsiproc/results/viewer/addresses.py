"""URLs of the viewer, linked from reports and cohorts; they work while ``wsiproc view`` is running."""

from __future__ import annotations

from urllib.parse import urlencode

VIEWER_PORT = 8421
"""Default port of the viewer."""


def viewer_address(slide: str, centre: tuple[float, float] | None = None, um: float = 0.25) -> str:
    """The page of a slide, by the name of its folder, on this machine. ``centre``: position (y, x) in level-0 px,
    displayed at ``um`` µm per screen px; None shows the whole slide.
    """
    query = {"slide": slide}
    if centre is not None:
        query |= {"x": f"{centre[1]:.0f}", "y": f"{centre[0]:.0f}", "um": f"{um:g}"}
    return f"http://127.0.0.1:{VIEWER_PORT}/#{urlencode(query)}"
