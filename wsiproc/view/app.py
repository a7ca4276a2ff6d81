"""The server behind the page: read-only, on this machine's own address unless told otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from stat import S_ISREG
from typing import Any

import orjson
from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from wsiproc.errors import WsiprocError
from wsiproc.report_figures import density_gradient
from wsiproc.view.drawing import Pixels, blank, jpeg, png
from wsiproc.view.shown import FINEST, TILE_PX, ShownSlide

# Pages whose scripts may read the OME-Zarr that is served: the public viewers that users open it with, no other site.
ZARR_VIEWERS = (
    "https://hms-dbmi.github.io",
    "https://avivator.gehlenborglab.org",
    "https://neuroglancer-demo.appspot.com",
    "https://ome.github.io",
)
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_MOST_THUMBNAIL_PX = 1024
_THREADS = 4
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def build_app(slides: Mapping[str, ShownSlide], origins: Sequence[str] = (), host: str = "127.0.0.1") -> Starlette:
    """The page, its data, and ``/zarr``, for slides by name.

    ``origins``: web pages, besides the usual viewers, whose scripts may read ``/zarr``; ``*`` allows all. Requests
    under another host name than this machine's own are refused while ``host`` is a loopback address, so that no page
    elsewhere can reach the server through a name of its own.
    """
    pages = _Pages(slides)
    allowed = ["*"] if "*" in origins else [*ZARR_VIEWERS, *origins]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=allowed,
        allow_origin_regex=r"https?://(localhost|127\.0\.0\.1)(:\d+)?",
        allow_methods=["GET", "HEAD", "OPTIONS"],
        allow_headers=["Range"],
        expose_headers=["Content-Range", "Content-Length", "Accept-Ranges", "ETag"],
    )
    routes = [
        Route("/", pages.page),
        Mount("/static", app=StaticFiles(packages=[("wsiproc.view", "static")])),
        Mount("/zarr", routes=[Route("/{name}/{part}/{file:path}", pages.zarr)], middleware=[cors]),
        Route("/api/slides", pages.listed),
        Route("/api/slides/{name}", pages.facts),
        Route("/api/slides/{name}/thumbnail.jpg", pages.thumbnail),
        Route("/api/slides/{name}/cell", pages.cell),
        Route("/api/slides/{name}/tissue.png", pages.tissue),
        Route("/api/slides/{name}/density.png", pages.density),
        Route("/api/slides/{name}/slide/{level:int}/{row:int}/{col:int}.jpg", pages.slide_tile),
        Route("/api/slides/{name}/cells/{level}/{row:int}/{col:int}.png", pages.cell_tile),
        Route("/api/slides/{name}/maps/{channel:int}/{level:int}/{row:int}/{col:int}.png", pages.map_tile),
    ]
    hosts = [*_LOOPBACK] if host in ("127.0.0.1", "localhost", "::1") else ["*"]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
    explained = {WsiprocError: _explained}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=explained, lifespan=_few_threads)


@asynccontextmanager
async def _few_threads(app: Starlette) -> AsyncIterator[None]:
    """Answer a few requests at a time: tiles are work for the processor, and each thread has a heap of its own."""
    current_default_thread_limiter().total_tokens = _THREADS
    yield


def _explained(request: Request, error: Exception) -> Response:
    return Response(str(error), 500, media_type="text/plain; charset=utf-8", headers=_HEADERS)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json", headers=_HEADERS)


def _picture(data: bytes, kind: str, **headers: str) -> Response:
    """A picture that a browser may keep for as long as the page is open."""
    return Response(data, media_type=kind, headers=_HEADERS | {"Cache-Control": "private, max-age=600"} | headers)


class _Pages:
    """What answers requests. Plain functions, which the server runs in threads."""

    def __init__(self, slides: Mapping[str, ShownSlide]) -> None:
        self._slides = slides
        self._zarr = {
            (name, part): StaticFiles(directory=shown.folder / part)
            for name, shown in slides.items()
            for part in ("slide.ome.zarr", "maps.ome.zarr")
        }
        self._clear = png(blank((TILE_PX, TILE_PX)))

    def _slide(self, request: Request) -> ShownSlide:
        try:
            return self._slides[request.path_params["name"]]
        except KeyError:
            raise HTTPException(404, "no slide of this name") from None

    def page(self, request: Request) -> Response:
        """The page itself."""
        page = (files("wsiproc.view") / "static/index.html").read_text(encoding="utf-8")
        return Response(page.replace("{{gradient}}", density_gradient()), media_type="text/html", headers=_HEADERS)

    def listed(self, request: Request) -> Response:
        """All slides, a card each."""
        return _json([shown.card() for shown in self._slides.values()])

    def facts(self, request: Request) -> Response:
        """All about one slide."""
        return _json(self._slide(request).facts() | {"tile_px": TILE_PX, "finest": FINEST})

    def thumbnail(self, request: Request) -> Response:
        """The slide in small."""
        longest = min(_MOST_THUMBNAIL_PX, max(16, _number(request.query_params.get("px", "256"))))
        return _picture(jpeg(self._slide(request).thumbnail(longest)), "image/jpeg")

    def slide_tile(self, request: Request) -> Response:
        """Pixels of the slide."""
        place = request.path_params
        return _picture(jpeg(self._slide(request).slide_tile(place["level"], place["row"], place["col"])), "image/jpeg")

    def cell_tile(self, request: Request) -> Response:
        """Cells, as outlines or dots."""
        place, query = request.path_params, request.query_params
        level = _number(place["level"])
        if level < FINEST:
            raise HTTPException(404)
        hidden = frozenset(_number(kind) for kind in query.get("hide", "").split(",") if kind)
        tile = self._slide(request).cell_tile(level, place["row"], place["col"], hidden, query.get("filled") == "1")
        return self._overlay(tile)

    def map_tile(self, request: Request) -> Response:
        """One of the model's maps."""
        place, shown = request.path_params, self._slide(request)
        if place["channel"] >= len(shown.channels):
            raise HTTPException(404)
        return self._overlay(shown.map_tile(place["channel"], place["level"], place["row"], place["col"]))

    def _overlay(self, tile: Pixels | None) -> Response:
        return _picture(self._clear if tile is None else png(tile), "image/png")

    def tissue(self, request: Request) -> Response:
        """Where tissue was found."""
        return _picture(png(self._slide(request).tissue()), "image/png")

    def density(self, request: Request) -> Response:
        """Cells per mm²; the density of the deepest colour is in a header."""
        picture, top = self._slide(request).density()
        return _picture(png(picture), "image/png", **{"X-Deepest": f"{top:.0f}"})

    def zarr(self, request: Request) -> Response:
        """A file of an OME-Zarr, or the range of it that was asked for; none outside its folder, and no links."""
        folder = self._zarr.get((request.path_params["name"], request.path_params["part"]))
        if folder is None:
            raise HTTPException(404)
        path, facts = folder.lookup_path(request.path_params["file"])
        if facts is None or not S_ISREG(facts.st_mode):
            raise HTTPException(404)
        return FileResponse(path, stat_result=facts)

    def cell(self, request: Request) -> Response:
        """The cell at a point (x, y in level-0 px), or with an id; null where there is none."""
        shown, query = self._slide(request), request.query_params
        number = _number(query["id"]) if "id" in query else shown.cell_at(_real(query.get("y")), _real(query.get("x")))
        return _json(shown.describe_cell(number) if number else None)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise HTTPException(400, f"{text!r} is no whole number") from None


def _real(text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise HTTPException(400, "give x and y, in px of the slide, or id")
    return value


def serve(app: Starlette, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve until interrupted; ``started`` is told the address once it answers. Port 0 takes any free one."""
    import socket

    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on"))
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        name = f"[{host}]" if ":" in host else host
        started(f"http://{name}:{listening.getsockname()[1]}/")
        server.run(sockets=[listening])
