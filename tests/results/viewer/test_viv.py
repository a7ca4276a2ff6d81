"""Viv, on which Vizarr and Avivator are built, shows the OME-Zarr that ``wsiproc view`` serves.

It comes from the registry of npm, so this runs where it was built once:

    cd tests/results/viewer/viv && npm install && npm run build
"""

from __future__ import annotations

import http.server
import io
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import zarr
from PIL import Image

from tests.results.viewer.browsing import FLAGS, until
from tests.results.viewer.serving import Shown, viewing
from wsiproc.io.slides.open import SlideSource
from wsiproc.results.export.full_image import write_full_image

BUNDLE = Path(__file__).with_name("viv") / "dist/page.js"
WIDTH, HEIGHT = 900, 640
# Drawn by the processor, since there may be no graphics card.
WEBGL = [flag for flag in FLAGS if flag != "--disable-gpu"] + ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def viv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a page of this machine, of another origin than the slides, with Viv in it."""
    if not BUNDLE.exists():
        pytest.skip(f"{BUNDLE} is not built: npm install && npm run build")
    folder = tmp_path_factory.mktemp("viv")
    shutil.copy(BUNDLE, folder)
    style = "<style>body { margin: 0; background: #000 }</style>"
    (folder / "index.html").write_text(f'<!doctype html>{style}<script type="module" src="page.js"></script>')
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def seen_by_viv(browser: Any, viv: str) -> Iterator[Any]:
    """Function of an address: the window (h, w, 3) once Viv has drawn what is there, and the levels it found."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    opened = browser.browser_type.launch(executable_path=chromium, args=WEBGL)

    def see(address: str) -> tuple[np.ndarray, list[list[int]]]:
        page = opened.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"{viv}?source={quote(address, safe='')}")
        until(page, "window.loaded === true", 120)
        page.wait_for_timeout(500)
        shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        levels = page.evaluate("window.shape")
        page.close()
        return shot, levels

    yield see
    opened.close()


def as_shown(pixels: np.ndarray) -> np.ndarray:
    """A picture (3, h, w) fitted into the window, black around it."""
    _, h, w = pixels.shape
    scale = min(WIDTH / w, HEIGHT / h)
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    size = (round(w * scale), round(h * scale))
    canvas = Image.new("RGB", (WIDTH, HEIGHT))
    canvas.paste(picture.resize(size, Image.Resampling.BOX), ((WIDTH - size[0]) // 2, (HEIGHT - size[1]) // 2))
    return np.asarray(canvas)


def assert_same_picture(shot: np.ndarray, pixels: np.ndarray) -> None:
    """Up to how either is scaled: in blocks of 10 px the mean colours agree."""
    blocks = [
        picture.reshape(HEIGHT // 10, 10, WIDTH // 10, 10, 3).mean(axis=(1, 3)) for picture in (shot, as_shown(pixels))
    ]
    difference = np.abs(blocks[0] - blocks[1])
    assert np.median(difference) < 4
    assert (difference.max(axis=2) < 40).mean() > 0.95
    assert blocks[1].std() > 20, "or the picture would prove nothing"


def test_viv_shows_the_overview(seen_by_viv: Any, shown: Shown, results: Path) -> None:
    shot, levels = seen_by_viv(f"{shown.address}zarr/ihc/slide.ome.zarr")
    group: Any = zarr.open_group(results / "ihc/slide.ome.zarr", mode="r")
    assert levels == [list(group[str(level)].shape) for level in range(len(levels))]
    assert_same_picture(shot, np.asarray(group["0"]))


def test_viv_shows_the_slide_at_full_resolution(seen_by_viv: Any, folder: Path, view_slides: Path) -> None:
    target = with_full_image(folder, view_slides)
    with viewing(folder) as served:
        shot, levels = seen_by_viv(f"{served.address}zarr/ihc/slide.full.ome.zarr")
    assert levels[0] == [3, 2300, 3100]
    assert_same_picture(shot, np.asarray(zarr.open_array(target / str(len(levels) - 1), mode="r")))


def with_full_image(folder: Path, slides: Path) -> Path:
    """The slide at full resolution, where ``wsiproc export`` writes it."""
    target = folder / "export/slide.full.ome.zarr"
    target.parent.mkdir()
    labels = folder / "slide.ome.zarr/labels"
    write_full_image(SlideSource(slides / "ihc.tif"), labels, target, workers=1, shard=1024)
    return target


def test_the_slide_at_full_resolution_is_served_once_it_is_there(folder: Path, view_slides: Path) -> None:
    with viewing(folder) as served:
        assert served.get("zarr/ihc/slide.full.ome.zarr/zarr.json")[0] == 404
        target = with_full_image(folder, view_slides)
        status, _, body = served.get("zarr/ihc/slide.full.ome.zarr/zarr.json")
        assert (status, body) == (200, (target / "zarr.json").read_bytes())
        assert served.get("zarr/ihc/export/zarr.json")[0] == 404
