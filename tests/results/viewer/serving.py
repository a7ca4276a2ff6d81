"""A server that shows finished slides: the command as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import orjson

ODD = "50 % {odd} & <b>"
"""Name of a slide that is nowhere plain: in an address, in a page, in a route."""


class Shown:
    """A running ``wsiproc view``: its address, and what it answers."""

    def __init__(self, address: str, pid: int) -> None:
        self.address, self.pid = address, pid

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in small letters) and body."""
        request = urllib.request.Request(self.address + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, _lower(answer.headers.items()), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, _lower(error.headers.items()), error.read()

    def json(self, path: str) -> Any:
        """The body, parsed; it must be a good answer."""
        status, _, body = self.get(path)
        assert status == 200, body
        return orjson.loads(body)


def _token(shown: Shown) -> str:
    page = shown.get("")[2].decode()
    return page.split('name="wsiproc-token" content="')[1].split('"')[0]


def ask(shown: Shown, method: str, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    """Status and parsed answer of a request as the page makes it, but for ``headers``."""
    sent = {"Content-Type": "application/json", "X-Wsiproc-Token": _token(shown)} | headers
    request = urllib.request.Request(shown.address + path, orjson.dumps(body), sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def decoded(body: bytes) -> npt.NDArray[np.uint8]:
    """Pixels of a PNG or JPEG: (h, w, 3) RGB or (h, w, 4) RGBA."""
    read = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None, body
    code = cv2.COLOR_BGRA2RGBA if read.shape[-1] == 4 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(read, code), np.uint8)


def _lower(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}


@contextmanager
def viewing(*arguments: object) -> Iterator[Shown]:
    """The server for the time of the block, on any free port."""
    command = [sys.executable, "-m", "wsiproc.cli.main", "view", *map(str, arguments), "--no-browser", "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+/", line)
        try:
            assert found, line + process.stdout.read()
            yield Shown(found[0], process.pid)
        finally:
            process.terminate()
            process.wait(20)
