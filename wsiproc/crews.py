"""Workers for the slides of a run: started when the first needs them, shared, and fewer when memory runs short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Condition
from types import TracebackType
from typing import Self

from wsiproc.devices import Cluster, cluster_facts
from wsiproc.errors import WorkerError
from wsiproc.executors import Crew, crew
from wsiproc.plan import Plan
from wsiproc.settings import Settings


class Crews:
    """The crew of a run, for as many ``slides`` as may use it at the same time, each from a thread of its own."""

    def __init__(self, settings: Settings, slides: int) -> None:
        self._settings, self._slides = settings, slides
        self._crew: Crew | None = None
        self._open = ExitStack()
        self._users = 0
        self._most: int | None = None
        self._cluster: Cluster | None = None
        self._dismissed = False
        self._change = Condition()

    def cluster(self) -> Cluster | None:
        """What the workers of an existing cluster are; None where the workers are this machine's."""
        with self._change:
            settings = self._settings
            if self._cluster is None and settings.scheduler is not None:
                self._cluster = cluster_facts(self._started(None), settings.device, settings.precision)
            return self._cluster

    @contextmanager
    def for_plan(self, plan: Plan) -> Iterator[Crew]:
        """Workers for a plan, for the time of the block.

        Where there are more than fit into memory with this plan, the slides that use them are waited for.
        """
        with self._change:
            taken = self._fitting(plan)
            self._users += 1
        try:
            yield taken
        finally:
            with self._change:
                self._users -= 1
                self._change.notify_all()

    def _fitting(self, plan: Plan) -> Crew:
        """A crew of the right size; a single region runs in this process unless there is more to do."""
        chosen = self._settings.executor != "auto" or self._settings.scheduler is not None
        alone = self._slides == 1 and self._crew is None and not chosen
        if alone and min(plan.workers, self._size(plan)) < 2:
            return Crew("loop", 1, None)
        if self._settings.scheduler is None:
            self._change.wait_for(lambda: not self._users or not self._in_the_way(plan) or self._dismissed)
            if self._crew is not None and self._crew.workers > self._size(plan):
                self._close()
        return self._started(self._size(plan))

    def _size(self, plan: Plan) -> int:
        return min(plan.crew_size, self._most or plan.crew_size)

    def _in_the_way(self, plan: Plan) -> bool:
        """Whether there are more workers than fit, or only this process, which does one slide at a time."""
        return self._crew is not None and (self._crew.pool is None or self._crew.workers > self._size(plan))

    def _started(self, size: int | None) -> Crew:
        if self._dismissed:
            raise WorkerError("the workers have been dismissed")
        if self._crew is None:
            settings = self._settings
            self._crew = self._open.enter_context(crew(settings.executor, size, settings.scheduler))
        return self._crew

    def fewer(self, than: Crew) -> bool:
        """Have half as many workers as ``than`` from now on; False where that is one, or all are somebody else's."""
        if self._settings.scheduler is not None or than.workers < 2:
            return False
        with self._change:
            self._most = min(self._most or than.workers, than.workers // 2)
        return True

    def dismiss(self) -> None:
        """Have every slide that is under way end soon, with an error that nobody waits for."""
        with self._change:
            self._dismissed = True
            if self._crew is not None:
                self._crew.dismiss()
            self._change.notify_all()

    def _close(self) -> None:
        self._open.close()
        self._crew = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
