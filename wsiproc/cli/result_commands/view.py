"""``wsiproc view``: show finished slides in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsiproc.cli.arguments import path
from wsiproc.results.viewer.addresses import VIEWER_PORT

VIEW_EXAMPLES = (
    "Examples:  wsiproc view results   ·   wsiproc view results/slide --slides /mnt/slides   ·   "
    "wsiproc view results --write   ·   wsiproc view results --no-browser --port 8000"
)


def view_command(
    results: Annotated[
        list[Path], typer.Argument(parser=path, help="Folders of finished slides, or folders that hold several.")
    ],
    port: Annotated[
        int | None,
        typer.Option(help=f"Port to listen on. (default: {VIEWER_PORT}, or any free one)", min=0, max=65535),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but the default makes the slides visible to other machines.")
    ] = "127.0.0.1",
    slides: Annotated[
        Path | None,
        typer.Option(parser=path, help="Where the slide files are now, if they were moved after the run."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of web pages whose scripts may also read /zarr; * allows all.")
    ] = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="Let the page save areas.geojson and corrections.geojson next to the results.",
        ),
    ] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page in a browser.")] = False,
) -> None:
    """Show finished slides in the browser, until Ctrl-C: cells, maps, density and tissue over the slide."""
    import errno
    import webbrowser
    from contextlib import suppress

    from wsiproc.errors import SettingsError
    from wsiproc.results.viewer.app import build_app, serve
    from wsiproc.results.viewer.shown import find_slides

    found, problems = find_slides(results, slides)
    for problem in problems:
        typer.echo(f"Not shown, {problem}", err=True)
    app = build_app(found, allow_origin or (), host, write)

    def started(address: str) -> None:
        count = f"{len(found)} slides" if len(found) > 1 else next(iter(found))
        typer.echo(f"{count}: {address}  (Ctrl-C ends; OME-Zarr for other viewers under {address}zarr/)")
        if not no_browser:
            webbrowser.open(address)

    for attempt in (VIEWER_PORT, 0) if port is None else (port,):
        try:
            with suppress(KeyboardInterrupt):
                serve(app, host, attempt, started)
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or attempt == 0:
                raise SettingsError(f"cannot listen on {host}, port {attempt}: {error.strerror}") from error
            if port is not None:
                raise SettingsError(f"port {port} is in use; choose another --port, or 0 for any free one") from error
