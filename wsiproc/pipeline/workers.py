"""Workers for the slides of a run: started on first use, shared, and reduced in number when memory runs short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Condition
from types import TracebackType
from typing import Self

from wsiproc.errors import WorkerError
from wsiproc.executors import WorkerPool, worker_pool
from wsiproc.executors.task import CLOSED
from wsiproc.models.device import Cluster, probe_cluster
from wsiproc.pipeline.planning.plan import Plan
from wsiproc.pipeline.settings import Settings


class SharedWorkers:
    """The worker pool of a run, shared by up to ``slides`` concurrent slides, each in a thread of its own."""

    def __init__(self, settings: Settings, slides: int) -> None:
        self._settings, self._slides = settings, slides
        self._pool: WorkerPool | None = None
        self._open = ExitStack()
        self._users = 0
        self._most: int | None = None
        self._cluster: Cluster | None = None
        self._closed = False
        self._change = Condition()

    def cluster(self) -> Cluster | None:
        """Properties of an existing cluster's workers; None where the workers are on this machine."""
        with self._change:
            settings = self._settings
            if self._cluster is None and settings.scheduler is not None:
                self._cluster = probe_cluster(self._started(None), settings.device, settings.precision)
            return self._cluster

    @contextmanager
    def for_plan(self, plan: Plan) -> Iterator[WorkerPool]:
        """Workers for a plan, for the duration of the block.

        If more workers run than fit into memory with this plan, it waits for the slides that use them.
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

    def _fitting(self, plan: Plan) -> WorkerPool:
        """A pool of the right size; a single region runs in this process unless there are other slides."""
        chosen = self._settings.executor != "auto" or self._settings.scheduler is not None
        alone = self._slides == 1 and self._pool is None and not chosen
        if alone and min(plan.workers, self._size(plan)) < 2:
            return WorkerPool("loop", 1, None)
        if self._settings.scheduler is None:
            self._change.wait_for(lambda: not self._users or not self._in_the_way(plan) or self._closed)
            if self._pool is not None and self._pool.workers > self._size(plan):
                self._close()
        return self._started(self._size(plan))

    def _size(self, plan: Plan) -> int:
        return min(plan.max_workers, self._most or plan.max_workers)

    def _in_the_way(self, plan: Plan) -> bool:
        """Whether there are more workers than fit, or only this process, which runs one slide at a time."""
        return self._pool is not None and (self._pool.backend is None or self._pool.workers > self._size(plan))

    def _started(self, size: int | None) -> WorkerPool:
        if self._closed:
            raise WorkerError(CLOSED)
        if self._pool is None:
            settings = self._settings
            self._pool = self._open.enter_context(worker_pool(settings.executor, size, settings.scheduler))
        return self._pool

    def fewer(self, than: WorkerPool) -> bool:
        """Use half as many workers as ``than`` from now on; False if it has one, or if they belong to a cluster."""
        if self._settings.scheduler is not None or than.workers < 2:
            return False
        with self._change:
            self._most = min(self._most or than.workers, than.workers // 2)
        return True

    def cancel(self) -> None:
        """Make every slide in flight end soon, with an error that the caller ignores."""
        with self._change:
            self._closed = True
            if self._pool is not None:
                self._pool.cancel()
            self._change.notify_all()

    def _close(self) -> None:
        self._open.close()
        self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
