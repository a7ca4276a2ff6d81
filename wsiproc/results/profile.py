"""Where the time of a run went: seconds that workers were busy, by what they did; written with every slide.

``run.json`` keeps it, the live display names what weighs most, and ``wsiproc profile`` says what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from wsiproc.executors import TaskMetrics

if TYPE_CHECKING:  # workers import this module, and have no use for the record
    from wsiproc.results.record import ProfileRecord, RunRecord


class Stage(StrEnum):
    """What a task of a slide is for."""

    INFER = "infer"
    SEGMENT = "segment"
    MERGE = "merge"
    OVERVIEW = "overview"
    LABELS = "labels"
    MAPS = "maps"
    GEOJSON = "geojson"
    TABLE = "table"
    SEAM = "seam"


# What the seconds of a stage were spent on, where its tasks do not say it themselves.
_SPENT_ON = {
    Stage.SEGMENT: "segment",
    Stage.MERGE: "merge",
    Stage.OVERVIEW: "overview",
    Stage.LABELS: "labels",
    Stage.MAPS: "coarse maps",
    Stage.GEOJSON: "GeoJSON",
    Stage.TABLE: "cell table",
    Stage.SEAM: "seam certificate",
}
NETWORK, READ = "network", "read"
_IDLE = 0.25  # share of the workers' time that is worth a word
_LIMIT = 0.5


@dataclass
class NetworkTime:
    """Seconds that inference spent reading and predicting, and Mpx that went through either, halos included."""

    read_s: float = 0.0
    predict_s: float = 0.0
    read_mpx: float = 0.0
    network_mpx: float = 0.0


@dataclass
class Profile:
    """What workers spent by what they did, added up task by task: seconds, bytes read and written.

    ``mpx``: megapixels that were read and predicted.
    """

    busy: dict[str, float] = field(default_factory=dict)
    mpx: dict[str, float] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)

    def add(self, stage: Stage, metrics: TaskMetrics) -> None:
        """A task of any stage but inference."""
        self._spend(_SPENT_ON[stage], metrics.seconds, metrics.read_bytes, metrics.written_bytes)

    def add_inference(self, metrics: TaskMetrics, spent: NetworkTime) -> None:
        """A task of inference, and what it ``spent`` on reading and predicting."""
        self._spend(READ, spent.read_s, metrics.read_bytes)
        self._spend(NETWORK, spent.predict_s)
        for name, mpx in ((READ, spent.read_mpx), (NETWORK, spent.network_mpx)):
            self.mpx[name] = self.mpx.get(name, 0.0) + mpx
        writing = metrics.seconds - spent.read_s - spent.predict_s
        self._spend("write maps", writing, 0, metrics.written_bytes)

    def _spend(self, name: str, seconds: float, read: int = 0, written: int = 0) -> None:
        self.busy[name] = self.busy.get(name, 0.0) + seconds
        self.read[name] = self.read.get(name, 0) + read
        self.written[name] = self.written.get(name, 0) + written

    def most(self) -> str:
        """What weighs most so far, with its share: ``network 83 %``; empty before anything was done."""
        total = sum(self.busy.values())
        if total <= 0:
            return ""
        name = max(self.busy, key=lambda each: self.busy[each])
        return f"{name} {self.busy[name] / total:.0%}"

    def as_dict(self, workers: int, slides: int) -> dict[str, Any]:
        """As ``run.json`` holds it; ``slides`` at once shared the ``workers``."""
        rounded = {name: round(seconds, 3) for name, seconds in self.busy.items()}
        mpx = {name: round(amount, 3) for name, amount in self.mpx.items()}
        return {
            "workers": workers,
            "slides_at_once": slides,
            "busy_s": rounded,
            "mpx": mpx,
            "read_bytes": self.read,
            "written_bytes": self.written,
        }


@dataclass(frozen=True)
class ProfileRow:
    """A row of the table: what, seconds of workers, share of all that workers were busy, a rate, bytes moved."""

    what: str
    seconds: float
    share: float
    rate: str = ""
    read_bytes: int = 0
    written_bytes: int = 0


def lines(profile: ProfileRecord) -> list[ProfileRow]:
    """The profile of a finished slide, the heaviest first."""
    total = sum(profile.busy_s.values()) or 1.0
    rows = []
    for name, seconds in sorted(profile.busy_s.items(), key=lambda item: -item[1]):
        mpx = profile.mpx.get(name, 0.0)
        rate = f"{mpx / seconds:.1f} Mpx/s a worker" if mpx and seconds else ""
        moved = [way.get(name, 0) for way in (profile.read_bytes, profile.written_bytes)]
        rows.append(ProfileRow(name, seconds, seconds / total, rate, *moved))
    return rows


def idle_share(profile: ProfileRecord, seconds: Mapping[str, float]) -> float:
    """How much of their time the workers of a finished slide had nothing to do while it was worked on: 0 … 1.

    0 where they had another slide to work on, since that is not known here.
    """
    if profile.slides_at_once > 1:
        return 0.0
    there = profile.workers * sum(seconds.get(stage, 0.0) for stage in ("infer and segment", "render and export"))
    return max(0.0, 1 - sum(profile.busy_s.values()) / there) if there else 0.0


def device_share(profile: ProfileRecord, seconds: Mapping[str, float]) -> float:
    """How much of the time in which cells were looked for the workers' device was busy with the network: 0 … 1.

    0 where it cannot be told, as with ``idle_share``.
    """
    there = profile.workers * seconds.get("infer and segment", 0.0)
    busy = profile.busy_s.get(NETWORK, 0.0)
    return min(1.0, busy / there) if profile.slides_at_once == 1 and there else 0.0


def advice(run: RunRecord) -> Iterable[str]:
    """What limited a finished slide, and what to change; nothing for results that kept no profile."""
    if run.profile is None:
        return
    shares = {line.what: line.share for line in lines(run.profile)}
    regions, workers, seconds = run.regions.tissue, run.profile.workers, run.seconds
    idle = idle_share(run.profile, seconds)
    if shares.get(NETWORK, 0.0) > _LIMIT:
        yield _network(run.device)
        if run.settings.precision == "float32":
            yield "--precision float32 was asked for: GPUs and most CPUs take half the time or less without it."
    if shares.get(READ, 0.0) > _LIMIT / 2:
        yield (
            "Reading weighs much: put the slides on a disk of this machine; tiled TIFF and SVS are read several times "
            "faster than other formats."
        )
    if idle > _IDLE and regions < 3 * workers:
        side = run.regions.step
        yield (
            f"Workers waited {idle:.0%} of the time: {regions} regions are few for {workers} workers. Give several "
            f"slides at once, or smaller regions: --region {side // 2}."
        )
    elif idle > _IDLE:
        yield f"Workers waited {idle:.0%} of the time: give several slides in one command, which then share them."
    alone = sum(seconds.get(stage, 0.0) for stage in ("plan", "workers", "prepare", "report"))
    if alone > _LIMIT * seconds["total"]:
        yield f"{alone:.1f} s of {seconds['total']:.1f} s were preparation: give many small slides in one command."


def _network(device: str) -> str:
    if device == "cuda":
        return "The network is what costs: more GPUs, or a model for a coarser resolution (`wsiproc fit` with its mpp)."
    return (
        "The network is what costs: a GPU does it far faster; more cores, with a worker each, do it "
        "faster in proportion; --model classical needs none."
    )
