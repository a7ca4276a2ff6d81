"""What tests of the page in a real browser share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.results.viewer.serving import Shown

FLAGS = [  # of chromium
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


def until(page: Any, expression: str, seconds: float = 60) -> Any:
    """The value of an expression once it is true."""
    end = time.monotonic() + seconds
    while not (value := page.evaluate(expression)):
        assert time.monotonic() < end, f"not true after {seconds} s: {expression}"
        time.sleep(0.05)
    return value


def show(page: Any, shown: Shown, address: str = "") -> None:
    """Open the page and wait until everything in view is drawn."""
    page.goto("about:blank")
    page.goto(shown.address + address)
    settled(page)


def settled(page: Any) -> None:
    """Wait until nothing moves and every tile is there."""
    until(page, "!!(window.viewer && viewer.world.getItemCount() && document.querySelector('.overlay'))")
    until(page, "location.hash.includes('slide=')")
    page.wait_for_timeout(700)  # springs
    loaded = "[...Array(viewer.world.getItemCount()).keys()].every((i) => viewer.world.getItemAt(i).getFullyLoaded())"
    until(page, loaded)


def layers(page: Any) -> int:
    """How many pictures lie on one another; the slide is one."""
    return int(page.evaluate("viewer.world.getItemCount()"))


def on_screen(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a place, in px of a slide 3100 px wide, is in the window."""
    point = page.evaluate(
        "(([x, y]) => { const p = viewer.viewport.viewportToViewerElementCoordinates(new OpenSeadragon.Point(x, y));"
        " const r = document.querySelector('#stage').getBoundingClientRect(); return [p.x + r.x, p.y + r.y]; })"
        f"([{x} / 3100, {y} / 3100])"
    )
    return point[0], point[1]


def saved(page: Any, press: str) -> bytes:
    """The file that a key or a button makes the browser save."""
    with page.expect_download() as download:
        if len(press) == 1:
            page.keyboard.press(press)
        else:
            page.click(press)
    return Path(download.value.path()).read_bytes()
