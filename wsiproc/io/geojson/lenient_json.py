"""JSON as QuPath and other programs write it: with NaN and Infinity, which the standard does not allow."""

from __future__ import annotations

import json
from typing import Any

import orjson


def parse_json(content: bytes) -> Any:
    """Parse JSON (UTF-8). Raises ValueError if it is invalid, RecursionError if it is nested too deeply."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        if b"NaN" not in content and b"Infinity" not in content:
            raise
        return json.loads(content.decode("utf-8"))
