"""JSON as QuPath and other programs write it: with NaN and Infinity among the numbers, which the standard has not."""

from __future__ import annotations

import json
from typing import Any

import orjson


def parse_json(content: bytes) -> Any:
    """The value of a JSON text (UTF-8). Raises ValueError where it is none; RecursionError for nesting without end."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        if b"NaN" not in content and b"Infinity" not in content:
            raise
        return json.loads(content.decode("utf-8"))
