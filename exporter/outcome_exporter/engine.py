"""The pipeline at work: one thread that reads the log, moves the clock, and checkpoints.

    log ─▶ ingest ─▶ ingest ─▶ … ─▶ checkpoint (state, buckets, offset) ─▶ trim the log

Only this thread changes the pipeline. Readers (a scrape, the page) hold the lock while they copy,
the thread holds it while it changes something; a checkpoint only reads, so that scrapes go on
while it is written. A checkpoint that fails is counted and tried again: until one succeeds the
log keeps everything, and once it is full the senders are asked to wait.

On start the state of the last checkpoint is taken over, and what the log holds beyond it is
read again; until that is done the exporter is not ready, and shows nothing that could go back. A
START record in the log says that it was away, so that a replay knows it too; a CLOCK record says
that the clock moved on though nothing came, or what a reload changed of what is shown.
"""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

import numpy as np

from outcome_exporter import __version__, series
from outcome_exporter.checkpoint import Checkpoint, StateStore
from outcome_exporter.config import Config
from outcome_exporter.errors import LogCorrupt, Overloaded, StateCorrupt, StorageError
from outcome_exporter.kernels.hashing import KNOWN_SEED, Seed
from outcome_exporter.log import DurableLog
from outcome_exporter.model import (
    Batch,
    Bytes,
    Encoding,
    Kind,
    Sample,
    Snapshot,
    Table,
)
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import DAY, MINUTE, SECOND

logger = logging.getLogger(__name__)

_READ_BYTES = 8 << 20
"""Payload taken in at a time: between two of them a scrape gets its turn."""
_TICK_SECONDS = 0.25
_ADMISSION_SECONDS = 1.0
"""How long a request waits at most for the pipeline to catch up; then the disk holds what it is
behind with."""


class Clock(Protocol):
    """Nanoseconds since 1970."""

    def __call__(self) -> int: ...


class _Buckets:
    """The store's buckets under the plan's numbers of SLOs."""

    def __init__(self, store: StateStore, names: list[str]) -> None:
        self._store = store
        self._ids = store.slo_ids(names)
        # Ids that no SLO of the configuration has any more stay without a number.
        size = int(self._ids.max()) + 1 if self._ids.size else 0
        self._numbers = np.full(size, -1, np.int64)
        self._numbers[self._ids] = np.arange(self._ids.size)

    def read_minute(self, minute: int) -> Table:
        return self._renumbered(self._store.read_minute(minute))

    def read_minutes(self, first: int, last: int) -> Table:
        return self._renumbered(self._store.read_minutes(first, last))

    def sum_minutes(self, first: int, last: int) -> Table:
        return self._renumbered(self._store.sum_minutes(first, last))

    def _renumbered(self, rows: Table) -> Table:
        numbers = np.full(rows.size, -1, np.int64)
        known = rows["slo"] < self._numbers.size
        numbers[known] = self._numbers[rows["slo"][known]]
        mine = rows[numbers >= 0]
        mine["slo"] = numbers[numbers >= 0]
        return mine

    def stored(self, rows: Table) -> Table:
        """Rows as the store numbers them."""
        stored = rows.copy()
        stored["slo"] = self._ids[rows["slo"]] if rows.size else 0
        return stored


class Engine:
    """Log, state and pipeline of one process."""

    def __init__(
        self,
        config: Config,
        log: DurableLog,
        store: StateStore,
        now: Clock,
        seed: Seed = KNOWN_SEED,
    ) -> None:
        """Takes the last checkpoint over.

        Raises:
            LogCorrupt: The log does not go on where the checkpoint ends.
            StateCorrupt: The checkpoint cannot be read.
        """
        self._log = log
        self._store = store
        self._now = now
        self._seed = seed
        self._lock = threading.Lock()
        self._reloads: queue.SimpleQueue[tuple[Config, Future[None]]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._reload_ok = True
        self._checkpoint_nano = 0
        self._tried_nano = 0
        self._checkpoint_seconds = 0.0
        self._checkpoint_failures = 0
        self._checkpoint_problem = ""
        self._ready_offset = 0
        # Loading comes first: it tells whether the ids of SLOs are all there.
        checkpoint = store.load()
        self._buckets = _Buckets(store, [slo.name for _, slo in config.slos])
        self.pipeline = Pipeline(config, self._buckets, seed)
        self._recover(checkpoint)

    def _recover(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            self.pipeline.restore(checkpoint.meta, checkpoint.arrays, checkpoint.offset)
            self._checkpoint_nano = self._tried_nano = checkpoint.clock_unix_nano
        else:
            self.pipeline.next_offset = self._log.first_offset
            if self._log.first_offset:
                logger.warning(
                    "there is no checkpoint, yet a log that begins at %d: "
                    "counters begin at 0, and with what it holds",
                    self._log.first_offset,
                )
        offset, clock = self.pipeline.next_offset, (self.pipeline.second or 0) * SECOND
        if not self._log.resume(offset, clock):
            logger.warning("the log ends before the checkpoint; it is begun anew at %d", offset)

    # For the receivers

    def admit(self) -> None:
        """Raises Overloaded while too much waits in memory; slows down who sends too fast."""
        if self._failure is not None:
            raise Overloaded(f"the exporter has stopped: {self._failure}", retry_after_seconds=30)
        for name, (waiting, limit) in self.pipeline.pending.items():
            if waiting >= limit:
                raise Overloaded(f"{waiting} {name} are pending, {limit} may be")
        self._log.wait_for_reader(_ADMISSION_SECONDS)

    def decode(self, kind: Kind, payload: bytes | Bytes) -> Batch:
        """A payload as columns, events or points, for the configuration that runs."""
        return self.pipeline.decode(kind, payload)

    # For whoever looks

    def snapshot(self) -> Snapshot:
        """Every series now; until the log has been read, only those about the exporter.

        The others would go back to the last checkpoint, which Prometheus takes for a reset.
        """
        shown: Snapshot = {}
        if self._thread is not None and self._unread_records() <= 0:
            with self._lock:
                shown = snapshot(self.pipeline)
        offset = self.pipeline.next_offset
        oldest = self._log.oldest_unread_unix_nano(offset)
        lag_seconds = max(self._now() - oldest, 0) / SECOND if oldest else 0.0
        return {
            **shown,
            series.BUILD_INFO: [Sample((__version__,), 1.0)],
            series.LOG_SIZE: [Sample((), float(self._log.size_bytes))],
            series.LOG_LAG: [Sample((), float(self._log.lag_bytes(offset)))],
            series.LOG_LAG_SECONDS: [Sample((), lag_seconds)],
            series.CHECKPOINT_AGE: [Sample((), self._checkpoint_nano / SECOND)],
            series.CHECKPOINT_DURATION: [Sample((), self._checkpoint_seconds)],
            series.CHECKPOINT_FAILURES: [Sample((), float(self._checkpoint_failures))],
            series.CONFIG_RELOAD_OK: [Sample((), float(self._reload_ok))],
        }

    def explain(self, tell: Callable[[Pipeline], object]) -> object:
        """What `tell` reads from the pipeline while nothing changes it."""
        with self._lock:
            return tell(self.pipeline)

    def not_ready(self) -> str | None:
        """None once the log has been read; otherwise how far that is, or what stopped it."""
        if self._failure is not None:
            return f"stopped: {self._failure}"
        if self._thread is None:
            return "starting"
        if self._unread_records() > 0:
            return f"replaying the log: {self._unread_records()} of its records are left"
        return None

    def ailments(self) -> list[str]:
        """What does not work just now, and is tried again."""
        said = {
            "requests are refused, the log was not written": self._log.problem,
            "the checkpoint was not written, the log keeps what it lacks": self._checkpoint_problem,
        }
        return [f"{what}: {why}" for what, why in said.items() if why]

    def _unread_records(self) -> int:
        """Of those that the log held at the start."""
        return self._ready_offset - self.pipeline.next_offset

    def behind(self) -> int:
        """Records of the log that the pipeline has not taken in yet."""
        return self._log.next_offset - self.pipeline.next_offset

    # Life

    def start(self) -> None:
        """Says in the log that the exporter is here, and begins to work.

        Raises:
            StorageError: The log cannot be written.
        """
        try:
            self._log.append(Kind.START, Encoding.NONE, self.pipeline.terms())
        except Overloaded as refused:
            raise StorageError(f"the exporter cannot start: {refused}") from refused
        self._ready_offset = self._log.next_offset
        self._thread = threading.Thread(target=self._run, name="pipeline")
        self._thread.start()

    def stop(self) -> None:
        """Finishes what it is at, and writes a last checkpoint."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def checkpointed(self) -> int:
        """When the last checkpoint was written, in nanoseconds since 1970; 0 if none ever was."""
        return self._checkpoint_nano

    @property
    def failure(self) -> Exception | None:
        """What stopped the thread, if anything did."""
        return self._failure

    def reload(self, config: Config) -> None:
        """Goes on under another configuration; returns once it does.

        Raises:
            StorageError: The checkpoint that goes before failed, or the exporter has stopped.
        """
        done: Future[None] = Future()
        self._reloads.put((config, done))
        if self._ended.is_set():
            self._refuse_reloads()
        done.result()

    def _refuse_reloads(self) -> None:
        with suppress(queue.Empty):
            while True:
                _, done = self._reloads.get_nowait()
                done.set_exception(StorageError("the exporter has stopped; restart it"))

    def reload_failed(self) -> None:
        """The file could not be taken over: said in the series until one can."""
        self._reload_ok = False

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._step()
            self._checkpoint()
        except Exception as error:
            logger.exception("the pipeline has stopped")
            self._failure = error
        finally:
            self._ended.set()
            self._refuse_reloads()

    def _step(self) -> None:
        while not self._reloads.empty():
            self._take_over(*self._reloads.get())
        read = self._read(_TICK_SECONDS)
        now = self._now()
        if not read:
            self._pass_time(now)
        # The clock may leap back: then, too.
        if not 0 <= now - self._tried_nano < self.pipeline.config.storage.checkpoint:
            self._checkpoint()

    def _read(self, timeout_seconds: float) -> bool:
        """Takes in what the log has; False if nothing came."""
        records = self._log.read(
            self.pipeline.next_offset, max_bytes=_READ_BYTES, timeout_seconds=timeout_seconds
        )
        with self._lock:
            for record in records:
                self.pipeline.ingest(record)
        return bool(records)

    def _pass_time(self, now: int) -> None:
        """Moves the clock on though nothing came.

        What it settles is shown and must not be taken back: where something may be due the log is
        told first, so that after a crash it is settled at the same moment, before any grace. Only
        while the log cannot be written does the clock move on without.
        """
        if self.pipeline.is_due(now):
            try:
                self._log.append(Kind.CLOCK, Encoding.NONE, b"")
            except Overloaded as refused:
                logger.warning("the clock moves on without the log: %s", refused)
            else:
                self._read(0)
                return
        with self._lock:
            if self._log.quiesce(self.pipeline.next_offset, now):
                self.pipeline.advance(now)

    def _take_over(self, config: Config, done: "Future[None]") -> None:
        try:
            buckets = _Buckets(self._store, [slo.name for _, slo in config.slos])
            self._checkpoint(must=True)
            pipeline = Pipeline(config, buckets, self._seed)
            pipeline.restore(*self.pipeline.dump(), self.pipeline.next_offset)
            if pipeline.terms() != self.pipeline.terms():
                self._log.append(Kind.CLOCK, Encoding.NONE, pipeline.terms())
        except Exception as error:  # noqa: BLE001 - whoever asked is told, the old one goes on
            self._reload_ok = False
            done.set_exception(error)
            return
        with self._lock:
            self._buckets, self.pipeline = buckets, pipeline
            self._reload_ok = True
        done.set_result(None)

    # Checkpoints

    def _checkpoint(self, *, must: bool = False) -> None:
        if self.pipeline.second is None:
            return
        self._tried_nano = self._now()
        try:
            self._save()
        except (LogCorrupt, StateCorrupt):
            raise  # trying again would not mend it
        except StorageError as error:
            self._checkpoint_failures += 1
            self._checkpoint_problem = str(error)
            if must:
                raise  # whoever needs it says so
            logger.exception("the checkpoint failed; the log keeps what it would have held")
        else:
            self._checkpoint_problem = ""
            self._checkpoint_nano = self._tried_nano
            self._checkpoint_seconds = (self._now() - self._tried_nano) / SECOND

    def _save(self) -> None:
        assert self.pipeline.second is not None
        meta, arrays = self.pipeline.dump()
        fresh = self._buckets.stored(self.pipeline.slos.fresh())
        offset = self.pipeline.next_offset
        second = self.pipeline.second
        self._store.save(
            offset,
            second * SECOND,
            meta,
            arrays,
            fresh,
            keep_from=second // 60 - self._retention() // MINUTE,
        )
        with self._lock:
            self.pipeline.slos.flushed()
        self._log.trim(offset)

    def _retention(self) -> int:
        config = self.pipeline.config
        windows = [window for _, slo in config.slos for window in slo.windows]
        longest = max(windows, default=0) + DAY
        return max(config.storage.retention or 0, longest)
