"""HTML from the package's templates: every value is escaped, and one that is not there is an error."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from wsiproc.core.numbers import mm2_text
from wsiproc.core.palette import css_colour

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, page: object) -> str:
    """The HTML of a template from ``templates``, which reads ``page`` under that name.

    Raises ``jinja2.UndefinedError`` where the template asks for what ``page`` does not have.
    """
    return _environment().get_template(template).render(page=page)


@cache
def _environment() -> Environment:
    # Here and not above: whoever writes no page does not wait for it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("wsiproc.results.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "counted": counted,
        "css": css_colour,
        "fixed": fixed,
        "mm2": mm2_text,
        "thousands": thousands,
    }
    return environment


def counted(number: int, one: str, many: str = "") -> str:
    """``1 slide``, ``2,000 slides``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def fixed(value: float, digits: int = 1) -> str:
    """With so many digits after the point: ``12.0``."""
    return f"{value:.{digits}f}"


def thousands(value: float, digits: int = 0) -> str:
    """The same with commas: ``12,345``."""
    return f"{value:,.{digits}f}"
