"""Handlers of what the page measures, and of the two files that it may write."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from wsiproc.errors import SettingsError
from wsiproc.results.viewer.analysis import measure_area, order, parse_area, spread, stain_share, suggested_areas, walk
from wsiproc.results.viewer.answers import image_answer, json_answer, read_cuts, read_look, whole_number
from wsiproc.results.viewer.drawing import jpeg
from wsiproc.results.viewer.marks import REDRAWN, ConflictError, Marks
from wsiproc.results.viewer.shown import ShownSlide

TOKEN_HEADER = "x-wsiproc-token"
_MOST_BODY_BYTES = 32 << 20
_MOST_CELLS = 60
_CROP_PX = (32, 512)
_CROP_UM = (5.0, 400.0)


class Questions:
    """What answers about cells and areas. Plain functions run in threads; what has a body is read first."""

    def __init__(self, slides: Mapping[str, ShownSlide], write: bool) -> None:
        self._slides, self.write = slides, write
        self._marks = {name: Marks(shown) for name, shown in slides.items()}
        self.token = secrets.token_urlsafe(24)

    def _slide(self, request: Request) -> ShownSlide:
        try:
            return self._slides[request.path_params["name"]]
        except KeyError:
            raise HTTPException(404, "no slide of this name") from None

    # --- measurements ---

    def spread(self, request: Request) -> Response:
        """Histogram of a measurement and how many cells are in the range."""
        return json_answer(spread(self._slide(request), read_look(request.query_params)))

    def positivity(self, request: Request) -> Response:
        """Positive, negative, strengths and H-score at thresholds of DAB."""
        return json_answer(stain_share(self._slide(request), read_look(request.query_params)))

    # --- cells ---

    def walk(self, request: Request) -> Response:
        """Cells one after the other in the order of a measurement."""
        shown, query = self._slide(request), request.query_params
        by = query.get("by", "score")
        ids = order(shown, read_look(query), by, query.get("falling") == "1")
        if not len(ids):
            return json_answer({"rank": 0, "of": 0, "cells": []})
        count = min(_MOST_CELLS, max(1, whole_number(query.get("count", "1"))))
        near = whole_number(query["id"]) if "id" in query else None
        return json_answer(walk(shown, ids, by, whole_number(query.get("rank", "0")), count, near))

    def crop(self, request: Request) -> Response:
        """An image of a cell and its surroundings."""
        shown, query = self._slide(request), request.query_params
        side = min(_CROP_PX[1], max(_CROP_PX[0], whole_number(query.get("px", "96"))))
        um = min(_CROP_UM[1], max(_CROP_UM[0], float(whole_number(query.get("um", "24")))))
        image = shown.crop(request.path_params["number"], side, um)
        if image is None:
            raise HTTPException(404, "no cell of this number")
        return image_answer(jpeg(image), "image/jpeg")

    # --- areas and corrections ---

    def areas(self, request: Request) -> Response:
        """The areas next to the results."""
        return json_answer(self._marks[self._slide(request).name].areas())

    def suggested(self, request: Request) -> Response:
        """Areas that need no drawing."""
        return json_answer(suggested_areas(self._slide(request)))

    def corrections(self, request: Request) -> Response:
        """What was said of cells."""
        return json_answer(self._marks[self._slide(request).name].corrections())

    async def measure(self, request: Request) -> Response:
        """What lies in areas; changes nothing."""

        def answer(shown: ShownSlide, body: Mapping[str, Any]) -> Any:
            cuts = read_cuts(str(body.get("cuts", "")))
            return [measure_area(shown, parse_area(geometry, shown), cuts).as_dict() for geometry in body["geometries"]]

        return await self._answered(request, answer)

    async def save_areas(self, request: Request) -> Response:
        """Write ``areas.geojson``."""
        self._refuse_unless_writing()
        return await self._answered(
            request, lambda shown, body: self._marks[shown.name].save_areas(body["areas"], str(body["state"]))
        )

    async def correct(self, request: Request) -> Response:
        """Write ``corrections.geojson``."""
        self._refuse_unless_writing()

        def answer(shown: ShownSlide, body: Mapping[str, Any]) -> Any:
            marks = self._marks[shown.name]
            if body["verdict"] == REDRAWN:
                return marks.draw(body["id"], body["geometry"])
            return marks.correct(body["id"], body["verdict"], body.get("class"))

        return await self._answered(request, answer)

    def _refuse_unless_writing(self) -> None:
        if not self.write:
            raise HTTPException(403, "nothing is written: start wsiproc view with --write")

    async def _answered(self, request: Request, answer: Callable[[ShownSlide, Mapping[str, Any]], Any]) -> Response:
        """The answer to a request of our own page; other pages, whose scripts a browser runs too, are refused."""
        self._refuse_strangers(request)
        shown = self._slide(request)
        body = await _body(request)
        try:
            return json_answer(await run_in_threadpool(answer, shown, body))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConflictError):
                raise HTTPException(409, str(error)) from error
            if isinstance(error, SettingsError):
                raise HTTPException(400, str(error)) from error
            if isinstance(error, KeyError | TypeError):
                raise HTTPException(400, f"the request lacks something: {error}") from error
            raise

    def _refuse_strangers(self, request: Request) -> None:
        """The token is in our page, which no page of another origin can read; browsers say where requests come from."""
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise HTTPException(403, "another page may not ask this")
        if not secrets.compare_digest(request.headers.get(TOKEN_HEADER, ""), self.token):
            raise HTTPException(403, "load the page again: it was made by an earlier start of wsiproc view")


async def _body(request: Request) -> Mapping[str, Any]:
    """The JSON object of a request."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "send application/json")
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > _MOST_BODY_BYTES:
            raise HTTPException(413, "too much in one request")
    try:
        body = orjson.loads(b"".join(parts))
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f"no JSON: {error}") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "send an object")
    return body
