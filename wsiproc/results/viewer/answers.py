"""Requests read and answers made: what the handlers of the page have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from wsiproc.core.palette import RGB
from wsiproc.results.viewer.colouring import Look

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_MOST_CUTS = (1, 3)


def json_answer(value: Any) -> Response:
    """Plain values; what is not a finite number becomes null."""
    return Response(orjson.dumps(value), media_type="application/json", headers=HEADERS)


def image_answer(data: bytes, kind: str, **headers: str) -> Response:
    """An image that a browser may keep for as long as the page is open."""
    return Response(data, media_type=kind, headers=HEADERS | {"Cache-Control": "private, max-age=600"} | headers)


def whole_number(text: str) -> int:
    """An int; a bad request where it is none."""
    try:
        return int(text)
    except ValueError:
        raise HTTPException(400, f"{text!r} is not a whole number") from None


def coordinate(text: str | None) -> float:
    """A place in px of the slide; a bad request where it is none."""
    value = _real(text or "")
    if not abs(value) < 1e9:
        raise HTTPException(400, "give x and y, in px of the slide, or id")
    return value


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_cuts(text: str) -> tuple[float, ...]:
    """Thresholds of DAB: none, one, or three that ascend."""
    cuts = tuple(_real(part) for part in text.split(",") if part)
    if cuts and (len(cuts) not in _MOST_CUTS or not all(0 <= cut <= 10 for cut in cuts) or list(cuts) != sorted(cuts)):
        raise HTTPException(400, "give one threshold of DAB, or three that ascend")
    return cuts


def read_look(query: Mapping[str, str]) -> Look:
    """How cells shall be coloured and which are shown, from an address; see ``Look``."""
    colours = [part.split(":", 1) for part in query.get("colours", "").split(",") if ":" in part]
    return Look(
        hidden=frozenset(_class_index(part) for part in query.get("hide", "").split(",") if part),
        colours=tuple((_class_index(index), _colour(text)) for index, text in colours),
        measure=query.get("measure") or None,
        paint=query.get("paint") == "1",
        domain=_range(query.get("domain", ""), (0.0, 1.0)),
        keep=_range(query.get("keep", ""), (-math.inf, math.inf)),
        grey=query.get("grey") == "1",
        cuts=read_cuts(query.get("cuts", "")),
    )


def _class_index(text: str) -> int:
    index = whole_number(text)
    if not 0 <= index < 128:
        raise HTTPException(400, f"{index} is not a class")
    return index


def _colour(text: str) -> RGB:
    try:
        r, g, b = bytes.fromhex(text)
    except ValueError:
        raise HTTPException(400, f"{text!r} is not a colour such as ff8800") from None
    return r, g, b


def _range(text: str, default: tuple[float, float]) -> tuple[float, float]:
    """``low,high``; an end that is left out is that of ``default``."""
    if not text:
        return default
    low, _, high = text.partition(",")
    ends = _real(low) if low else default[0], _real(high) if high else default[1]
    if any(math.isnan(end) for end in ends):
        raise HTTPException(400, f"{text!r} is not a range such as 10,80")
    return ends
