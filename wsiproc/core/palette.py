"""One palette for zarr, GeoJSON, report and viewer.

The colours are those of Okabe and Ito (2008), which colour-blind readers can distinguish, ordered so that the first
ones also stand out on pink and brown tissue.
"""

from __future__ import annotations

RGB = tuple[int, int, int]

OKABE_ITO: tuple[RGB, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (86, 180, 233),
    (204, 121, 167),
    (240, 228, 66),
    (0, 0, 0),
)

# For more phenotypes than that: four dark colours of Tol's muted palette (SRON/EPS/TN/09-002, 2021), so that each also
# differs in lightness.
TOL_MUTED: tuple[RGB, ...] = ((136, 34, 85), (51, 34, 136), (153, 153, 51), (17, 119, 51))

# QuPath ignores a file's colours for these names and uses its own, which are close to these.
NAMED: dict[str, RGB] = {
    "Positive": (213, 94, 0),
    "Negative": (0, 114, 178),
    "Nucleus": (0, 158, 115),
    "1+": (240, 196, 50),
    "2+": (230, 134, 0),
    "3+": (176, 38, 20),
}


def class_colour(name: str, index: int) -> RGB:
    """Colour of the class ``name``, the ``index``-th of its model."""
    return NAMED.get(name, OKABE_ITO[index % len(OKABE_ITO)])


def phenotype_colours(count: int) -> tuple[RGB, ...]:
    """Distinct colours of ``count`` discovered phenotypes, at most 12."""
    return (OKABE_ITO + TOL_MUTED)[:count]


def css_colour(colour: RGB) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
