"""Untrusted Zarr: reads only files in the folder, and only with codecs that merely decode."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

# Of zarr v2, ``pickle`` runs any code in a chunk (newer numcodecs refuse by default), and others build Python objects;
# images need none of them. https://github.com/zarr-developers/numcodecs/issues/706
_CODECS = {
    # both versions
    "blosc", "bz2", "crc32c", "gzip", "lz4", "lzma", "zlib", "zstd", "shuffle", "delta", "fletcher32", "crc32",
    "adler32", "jenkins_lookup3", "pcodec", "zfpy", "packbits", "bitround", "fixedscaleoffset",
    # zarr v3's own
    "bytes", "transpose", "sharding_indexed",
}  # fmt: skip
_METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
_SPARE_BYTES = 1 << 16


class FolderStore(LocalStore):
    """A read-only folder, restricted to its own files: no link that leads out of it, no pipe, no device."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, read_only=True)
        self._real_root = os.path.realpath(root)
        self._limits: dict[str, int] = {}

    def limit(self, array: zarr.Array[Any]) -> None:
        """From now on, refuse files of an array that are much larger than the pixels of a chunk. Compressed data of
        that size could unpack to anything.
        """
        held = math.prod(array.shards or array.chunks) * array.dtype.itemsize
        self._limits[array.path] = 2 * held + _SPARE_BYTES

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """See ``LocalStore.get``; ``PermissionError`` for anything but a file of the folder."""
        self._require_own(key)
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """See ``LocalStore.get_partial_values`` and ``get``."""
        ranges = list(key_ranges)
        for key, _ in ranges:
            self._require_own(key)
        return await super().get_partial_values(prototype, ranges)

    def _require_own(self, key: str) -> None:
        """Raise ``PermissionError`` unless ``key`` is missing, or a file or folder within this one."""
        real = os.path.realpath(self.root / key)
        if os.path.commonpath([real, self._real_root]) != self._real_root:
            raise PermissionError(f"{key} leads out of the folder, to {real}; put the file itself there (cp -rL)")
        try:
            status = os.stat(real)
        except FileNotFoundError:
            return
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise PermissionError(f"{key} is a pipe, socket or device where a file should be")
        most = next((most for path, most in self._limits.items() if key.startswith(f"{path}/")), None)
        if most is not None and status.st_size > most and Path(key).name not in _METADATA:
            raise PermissionError(f"{key} has {status.st_size:,} bytes, and no chunk of this array more than {most:,}")


def require_plain_codecs(array: zarr.Array[Any]) -> None:
    """Raise ``ValueError`` if an array's chunks need codecs other than compression and reordering."""
    names = [name.removeprefix("numcodecs.") for name in _codec_names(array.metadata.to_dict())]
    strange = [name for name in names if name not in _CODECS and not name.startswith("imagecodecs_")]
    if strange:
        raise ValueError(
            f"array {array.path!r} is encoded with {', '.join(strange)}, which may run code or is unknown, and is not "
            "read; write the image with blosc, zstd, gzip or no compression"
        )


def _codec_names(metadata: Any) -> Iterator[str]:
    """Names of all codecs in the metadata of zarr v2 (``id``) or v3 (``name``), including those within shards."""
    for key in ("filters", "compressor", "codecs", "index_codecs"):
        found = metadata.get(key)
        for codec in found if isinstance(found, list | tuple) else [found]:
            if codec is None:
                continue
            config = codec if isinstance(codec, dict) else codec.get_config()
            yield str(config.get("id", config.get("name")))
            yield from _codec_names(config.get("configuration", {}))
