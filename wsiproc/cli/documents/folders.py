"""Documents that list folders of results, files that were made of them, or scores of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from wsiproc.cli.documents.base import Document, Part
from wsiproc.results.profile import advice, lines

if TYPE_CHECKING:
    from wsiproc.evaluate.compare import ScoreRow, Scores
    from wsiproc.pipeline.reclassify import Reclassified
    from wsiproc.results.record import RunRecord
    from wsiproc.results.validate import Finding

# --- check, profile, export, reclassify -------------------------------------------------------------------------------


class CheckFinding(Part):
    """One thing that was checked."""

    level: Literal["ok", "warning", "error"]
    """How it is."""
    what: str
    """What was looked at."""
    detail: str
    """What was found."""


class CheckFolder(Part):
    """What was found in one folder."""

    folder: str
    """Folder of the results."""
    ok: bool
    """Whether there is no finding of the level `error`."""
    findings: list[CheckFinding]
    """All findings."""

    @classmethod
    def of(cls, folder: Path, findings: Sequence[Finding]) -> Self:
        """From the findings of a folder."""
        return cls(
            folder=str(folder),
            ok=all(finding.level != "error" for finding in findings),
            findings=[CheckFinding(**asdict(finding)) for finding in findings],
        )


class CheckDocument(Document):
    """Answer of `wsiproc check`."""

    items: ClassVar[str] = "folders"

    folders: list[CheckFolder]
    """The folders of results."""


class ProfileLine(Part):
    """What workers spent on one kind of work."""

    what: str
    """Kind of work."""
    worker_s: float
    """Seconds that workers were busy with it, added up."""
    share: float
    """Share of all that workers were busy, 0 to 1."""
    read_bytes: int
    """Bytes read."""
    written_bytes: int
    """Bytes written."""


class ProfileFolder(Part):
    """Where the time of one slide went."""

    folder: str
    """Folder of the results."""
    slide: str
    """Name of the slide."""
    total_s: float
    """Seconds that the slide took."""
    clock_s: dict[str, float]
    """Seconds by the clock of each step."""
    workers: int | None
    """Worker processes; null for results of versions that kept no profile."""
    device: str
    """Where the model ran: cpu or cuda."""
    device_busy: float | None
    """Share of the time of finding cells in which the device was busy with the network, 0 to 1; null if not known."""
    busy: list[ProfileLine]
    """What workers did, the heaviest first."""
    advice: list[str]
    """What limited the run, and what to change."""

    @classmethod
    def of(cls, folder: Path, run: RunRecord) -> Self:
        """From ``run.json``."""
        profile, clock = run.profile, dict(run.seconds)
        known: dict[str, Any] = {"workers": None, "device_busy": None, "busy": [], "advice": []}
        if profile is not None:
            busy = [
                ProfileLine(
                    what=line.what,
                    worker_s=line.seconds,
                    share=line.share,
                    read_bytes=line.read_bytes,
                    written_bytes=line.written_bytes,
                )
                for line in lines(profile)
            ]
            known = {
                "workers": profile.workers,
                "device_busy": profile.device_busy,
                "busy": busy,
                "advice": list(advice(run)),
            }
        return cls(
            folder=str(folder),
            slide=run.slide.name,
            total_s=clock.pop("total"),
            clock_s=clock,
            device=run.device,
            **known,
        )


class ProfileDocument(Document):
    """Answer of `wsiproc profile`."""

    items: ClassVar[str] = "folders"

    folders: list[ProfileFolder]
    """The folders of results."""


class ExportedFile(Part):
    """One file, or folder that is an image, that was written."""

    folder: str
    """Folder of the results that it was made from."""
    path: str
    """What was written."""


class ExportDocument(Document):
    """Answer of `wsiproc export`."""

    items: ClassVar[str] = "files"

    files: list[ExportedFile]
    """All that was written."""


class ReclassifiedSlide(Part):
    """Cells of one slide that got other classes."""

    folder: str
    """Folder of the results."""
    before: dict[str, int]
    """Cells of each class before."""
    after: dict[str, int]
    """Cells of each class after."""
    warnings: list[str]
    """All that the user should know."""

    @classmethod
    def of(cls, done: Reclassified) -> Self:
        """From what became of a slide."""
        return cls(folder=str(done.folder), before=done.before, after=done.after, warnings=done.warnings)


class ReclassifyDocument(Document):
    """Answer of `wsiproc reclassify`."""

    items: ClassVar[str] = "folders"

    folders: list[ReclassifiedSlide]
    """The folders of results."""


# --- evaluate ---------------------------------------------------------------------------------------------------------


class PictureScores(Part):
    """Scores of one image, or means; a score that is not defined is null."""

    picture: str
    """Name of the image; `mean` for the means."""
    dice: float | None
    """Dice of the foreground pixels, 0 to 1."""
    iou: float | None
    """Intersection over union of the foreground pixels."""
    aji: float | None
    """Aggregated Jaccard index."""
    pq: float | None
    """Panoptic quality."""
    dq: float | None
    """Detection quality."""
    sq: float | None
    """Segmentation quality."""
    f1: float | None
    """F1 of objects matched at IoU > 0.5."""
    precision: float | None
    """Precision of objects."""
    recall: float | None
    """Recall of objects."""
    object_dice: float | None
    """Object Dice."""
    n_pred: float
    """Predicted objects; of the mean, their mean number."""
    n_true: float
    """True objects; of the mean, their mean number."""

    @classmethod
    def of(cls, picture: str, scores: Scores) -> Self:
        """From scores."""
        values = {name: value if math.isfinite(value) else None for name, value in asdict(scores).items()}
        return cls.model_validate({"picture": picture} | values)


class EvaluateDocument(Document):
    """Answer of `wsiproc evaluate`."""

    items: ClassVar[str] = "pictures"

    pictures: list[PictureScores]
    """Each image, by name."""
    mean: PictureScores | None = None
    """Means over images; null where there are none."""


def evaluated(rows: Sequence[ScoreRow]) -> tuple[list[PictureScores], PictureScores]:
    """Scores of images, of which there is at least one, and their mean."""
    from wsiproc.evaluate.compare import mean_scores

    return [PictureScores.of(row.name, row.scores) for row in rows], PictureScores.of("mean", mean_scores(rows))
