"""The folder of each slide in a run's output: named after the slide, made unique where several have the same name.

A folder belongs to the slide named in ``run.json`` or in its unfinished work: identified by the slide's path or, if the
file was moved, by its content. So every later run finds existing results, whatever slides are added.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsiproc.core.paths import MOST_NAME_BYTES, absolute, differing
from wsiproc.errors import SettingsError
from wsiproc.io.slides.fingerprint import fingerprint
from wsiproc.io.slides.list import is_slide_folder, require_outside_slides
from wsiproc.io.slides.open import plain_name, slide_name
from wsiproc.results.folder import RUN, SLIDE, WORK


@dataclass(frozen=True)
class _Owner:
    """The slide that a folder belongs to; None where that is unknown."""

    path: Path | None = None
    fingerprint: str | None = None


def output_folder(out: Path, slides: Iterable[Path] = ()) -> Path:
    """``out`` made absolute. SettingsError if OME-Zarr cannot be written under one of its names, OutputError if there
    can be no folder, or it would be within a slide, such as one of ``slides``.
    """
    folder = absolute(out)
    for part in folder.parts[1:]:
        if "\\" in part or part.endswith(".__lock") or not _is_unicode(part):
            raise SettingsError(
                f"{str(folder)!r}: results cannot be written to a folder with a backslash, bytes that are not UTF-8 "
                f'or ".__lock" at the end of its name, as {part!r} has; choose another folder'
            )
    require_outside_slides(folder, slides)
    return folder


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def name_folders(paths: Sequence[Path], out: Path) -> list[str]:
    """The name of each slide's folder in ``out``; ``paths`` are absolute and unique."""
    stems = {path: slide_name(path) for path in paths}
    owners = _owners(out, stems.values())
    named = _recognised(stems, owners)
    taken = {_folded(name) for name in named.values()}
    taken |= {_folded(name) for name, owner in owners.items() if owner.path is not None or is_slide_folder(out / name)}
    rivals: dict[str, set[Path]] = {}
    for path, stem in stems.items():
        rivals.setdefault(_folded(stem), set()).add(path)
    for owner in owners.values():
        if owner.path is not None and (stem := _folded(slide_name(owner.path))) in rivals:
            rivals[stem].add(owner.path)
    left = [path for path in stems if path not in named]
    for path in sorted(left, key=lambda path: (len(rivals[_folded(stems[path])]) > 1, path)):
        others = sorted(rivals[_folded(stems[path])] - {path})
        name = next(name for name in _names(path, stems[path], others) if _folded(name) not in taken)
        named[path] = name
        taken.add(_folded(name))
    return [named[path] for path in paths]


def _names(path: Path, stem: str, others: Sequence[Path]) -> Iterator[str]:
    """Candidate names for a slide's folder, best first; ``others``: slides with the same name."""
    if not others:
        yield stem
    before = differing(path.parent.parts[1:], [other.parent.parts[1:] for other in others])
    kind = path.suffix.lower().lstrip(".")
    if before:
        yield _joined([*before, stem])
    elif any(other.parent != path.parent for other in others):
        yield stem
    if any(other.parent == path.parent and other.suffix.lower() != path.suffix.lower() for other in others):
        yield _joined([*before, stem, kind])
    yield _joined([path.parent.name, stem] if path.parent.name else [stem])
    yield _joined([stem, hashlib.sha256(os.fsencode(path)).hexdigest()[:8]])
    yield from (_joined([stem, str(number)]) for number in range(2, 1 << 20))


def _joined(parts: Sequence[str]) -> str:
    name = "_".join(plain_name(part) for part in parts)
    if len(name.encode()) <= MOST_NAME_BYTES:
        return name
    return f"{plain_name(parts[-1])[:40]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _folded(name: str) -> str:
    """A canonical form, equal for names that some file systems treat as one: differing in case or Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


# --- existing folders ------------------------------------------------------------------------------------------------


def _owners(out: Path, stems: Iterable[str]) -> dict[str, _Owner]:
    """Folders in ``out`` whose names contain a slide's, and their owners."""
    try:
        names = sorted(entry.name for entry in os.scandir(out) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return {}
    wanted = {_folded(stem) for stem in stems}
    return {name: _owner(out / name) for name in names if _parts(_folded(name)) & wanted}


def _parts(name: str) -> set[str]:
    """The name, and every part of it that underscores delimit."""
    words = name.split("_")
    ends = range(1, len(words) + 1)
    return {"_".join(words[first:end]) for end in ends for first in range(end)}


def _owner(folder: Path) -> _Owner:
    for place, key in ((folder / RUN, "slide"), (folder / WORK / SLIDE, None)):
        try:
            slide = json.loads(place.read_text(encoding="utf-8"))
            slide = slide if key is None else slide[key]
            return _Owner(Path(slide["path"]), str(slide["fingerprint"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return _Owner()


def _recognised(stems: Mapping[Path, str], owners: Mapping[str, _Owner]) -> dict[Path, str]:
    """Folders of slides that have one: it records their path, or their content if its path is not in this run."""
    by_path = {owner.path: name for name, owner in sorted(owners.items(), reverse=True)}
    named = {path: by_path[path] for path in stems if path in by_path}
    free = {name: owner for name, owner in owners.items() if owner.path is not None and name not in named.values()}
    for path in sorted(path for path in stems if path not in named):
        mine = [name for name in free if _folded(stems[path]) in _parts(_folded(name))]
        content = _content(path) if mine else None
        same = [name for name in mine if content is not None and free[name].fingerprint == content]
        if same:
            named[path] = same[0]
            del free[same[0]]
    return named


def _content(path: Path) -> str | None:
    """A slide's fingerprint; None where it cannot be read, which is reported when the slide is run."""
    try:
        return fingerprint(path)
    except OSError:
        return None
