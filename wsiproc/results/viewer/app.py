"""The server behind the page, on the loopback address unless another is given; read-only but for two files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from stat import S_ISREG

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

from wsiproc.core.types import UInt8Array
from wsiproc.errors import SettingsError, WsiprocError
from wsiproc.results.report.figures import density_gradient
from wsiproc.results.viewer.answers import HEADERS, coordinate, image_answer, json_answer, read_look, whole_number
from wsiproc.results.viewer.colouring import painted, scale_gradient
from wsiproc.results.viewer.drawing import blank, jpeg, png
from wsiproc.results.viewer.questions import Questions
from wsiproc.results.viewer.shown import FINEST, TILE_PX, ShownSlide

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
_FILL_CLASSES, _FILL_SHADES = 110, 200  # opacity of the insides of cells


def build_app(
    slides: Mapping[str, ShownSlide], origins: Sequence[str] = (), host: str = "127.0.0.1", write: bool = False
) -> Starlette:
    """The page, its data, and ``/zarr``, for slides by name.

    ``origins``: web pages, in addition to the usual viewers, whose scripts may read ``/zarr``; ``*`` allows all.
    Requests under another host name than this machine's own are refused while ``host`` is a loopback address, so that
    no page elsewhere can reach the server through a name of its own. ``write``: areas and corrections may be written
    next to the results; ``SettingsError`` where ``host`` is not a loopback address.
    """
    local = host in ("127.0.0.1", "localhost", "::1")
    if write and not local:
        raise SettingsError(f"--write is for this machine only, and --host {host} shows the slides to others")
    questions = Questions(slides, write)
    pages = _Pages(slides, questions)
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
        Mount("/static", app=StaticFiles(packages=[("wsiproc.results.viewer", "static")])),
        Mount("/zarr", routes=[Route("/{name}/{part}/{file:path}", pages.zarr)], middleware=[cors]),
        Route("/api/slides", pages.listed),
        Route("/api/slides/{name}", pages.facts),
        Route("/api/slides/{name}/thumbnail.jpg", pages.thumbnail),
        Route("/api/slides/{name}/cell", pages.cell),
        Route("/api/slides/{name}/spread", questions.spread),
        Route("/api/slides/{name}/positivity", questions.positivity),
        Route("/api/slides/{name}/walk", questions.walk),
        Route("/api/slides/{name}/crop/{number:int}.jpg", questions.crop),
        Route("/api/slides/{name}/measure", questions.measure, methods=["POST"]),
        Route("/api/slides/{name}/suggested", questions.suggested),
        Route("/api/slides/{name}/areas", questions.areas),
        Route("/api/slides/{name}/areas", questions.save_areas, methods=["PUT"]),
        Route("/api/slides/{name}/corrections", questions.corrections),
        Route("/api/slides/{name}/corrections", questions.correct, methods=["PUT"]),
        Route("/api/slides/{name}/tissue.png", pages.tissue),
        Route("/api/slides/{name}/density.png", pages.density),
        Route("/api/slides/{name}/slide/{level:int}/{row:int}/{col:int}.jpg", pages.slide_tile),
        Route("/api/slides/{name}/cells/{level}/{row:int}/{col:int}.png", pages.cell_tile),
        Route("/api/slides/{name}/maps/{channel:int}/{level:int}/{row:int}/{col:int}.png", pages.map_tile),
    ]
    hosts = [*_LOOPBACK] if local else ["*"]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
    explained = {WsiprocError: _explained}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=explained, lifespan=_few_threads)


@asynccontextmanager
async def _few_threads(app: Starlette) -> AsyncIterator[None]:
    """Answer a few requests at a time: tiles are work for the processor, and each thread has a heap of its own."""
    current_default_thread_limiter().total_tokens = _THREADS
    yield


def _explained(request: Request, error: Exception) -> Response:
    status = 400 if isinstance(error, SettingsError) else 500
    return Response(str(error), status, media_type="text/plain; charset=utf-8", headers=HEADERS)


class _Pages:
    """What answers requests. Plain functions, which the server runs in threads."""

    def __init__(self, slides: Mapping[str, ShownSlide], questions: Questions) -> None:
        self._slides, self._questions = slides, questions
        self._zarr = {
            (name, part.rpartition("/")[2]): StaticFiles(directory=shown.folder / part, check_dir=False)
            for name, shown in slides.items()
            for part in ("slide.ome.zarr", "maps.ome.zarr", "export/slide.full.ome.zarr")
        }
        self._clear = png(blank((TILE_PX, TILE_PX)))

    def _slide(self, request: Request) -> ShownSlide:
        try:
            return self._slides[request.path_params["name"]]
        except KeyError:
            raise HTTPException(404, "no slide of this name") from None

    def page(self, request: Request) -> Response:
        """The page itself."""
        page = (files("wsiproc.results.viewer") / "static/index.html").read_text(encoding="utf-8")
        filled = {"gradient": density_gradient(), "shades": scale_gradient(), "token": self._questions.token}
        filled["write"] = "1" if self._questions.write else ""
        for name, text in filled.items():
            page = page.replace("{{" + name + "}}", text)
        return Response(page, media_type="text/html", headers=HEADERS | {"Cache-Control": "no-store"})

    def listed(self, request: Request) -> Response:
        """All slides, a card each."""
        return json_answer([shown.card() for shown in self._slides.values()])

    def facts(self, request: Request) -> Response:
        """All about one slide."""
        return json_answer(self._slide(request).facts() | {"tile_px": TILE_PX, "finest": FINEST})

    def thumbnail(self, request: Request) -> Response:
        """The slide in small."""
        longest = min(_MOST_THUMBNAIL_PX, max(16, whole_number(request.query_params.get("px", "256"))))
        return image_answer(jpeg(self._slide(request).thumbnail(longest)), "image/jpeg")

    def slide_tile(self, request: Request) -> Response:
        """Pixels of the slide."""
        place = request.path_params
        return image_answer(
            jpeg(self._slide(request).slide_tile(place["level"], place["row"], place["col"])), "image/jpeg"
        )

    def cell_tile(self, request: Request) -> Response:
        """Cells, as outlines or dots."""
        place, query = request.path_params, request.query_params
        level = whole_number(place["level"])
        if level < FINEST:
            raise HTTPException(404)
        look = read_look(query)
        # Shades are distinguished by their colour alone, so that less of the tissue may shine through.
        fill = (_FILL_SHADES if painted(look) else _FILL_CLASSES) if query.get("filled") == "1" else 0
        tile = self._slide(request).cell_tile(level, place["row"], place["col"], look, fill)
        return self._overlay(tile)

    def map_tile(self, request: Request) -> Response:
        """One of the model's maps."""
        place, shown = request.path_params, self._slide(request)
        if place["channel"] >= len(shown.channels):
            raise HTTPException(404)
        return self._overlay(shown.map_tile(place["channel"], place["level"], place["row"], place["col"]))

    def _overlay(self, tile: UInt8Array | None) -> Response:
        return image_answer(self._clear if tile is None else png(tile), "image/png")

    def tissue(self, request: Request) -> Response:
        """Where tissue was found."""
        return image_answer(png(self._slide(request).tissue()), "image/png")

    def density(self, request: Request) -> Response:
        """Cells per mm²; the density of the deepest colour is in a header."""
        image, top = self._slide(request).density()
        return image_answer(png(image), "image/png", **{"X-Deepest": f"{top:.0f}"})

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
        number = (
            whole_number(query["id"])
            if "id" in query
            else shown.cell_at(coordinate(query.get("y")), coordinate(query.get("x")))
        )
        return json_answer(shown.describe_cell(number) if number else None)


def serve(app: Starlette, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve until interrupted; ``started`` is called with the address once it answers. Port 0 takes any free one."""
    import socket

    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on"))
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        name = f"[{host}]" if ":" in host else host
        started(f"http://{name}:{listening.getsockname()[1]}/")
        server.run(sockets=[listening])
