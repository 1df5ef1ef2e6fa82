"""`outcome-exporter serve`: the outermost layer, which reads the clock, the files and the signals.

Starts the log, the pipeline, the receivers and the page, in this order, and stops them in the
other: no request is accepted that is not durable, and none is cut while it becomes so.
"""

import gc
import logging
import os
import resource
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from prometheus_client import ProcessCollector

from outcome_exporter import check, diagnostics, evidence, series
from outcome_exporter.checkpoint import StateStore
from outcome_exporter.clock import SteadyClock
from outcome_exporter.config import Config
from outcome_exporter.config.process import Listener, Tls
from outcome_exporter.engine import Engine
from outcome_exporter.errors import (
    ConfigError,
    LogCorrupt,
    OutcomeExporterError,
    Problem,
    StateCorrupt,
    StorageError,
)
from outcome_exporter.intake import DurableIntake
from outcome_exporter.kernels.hashing import Seed
from outcome_exporter.log import DurableLog
from outcome_exporter.model import Intake, Kind, Sample, Snapshot
from outcome_exporter.prometheus_source import Poller
from outcome_exporter.receive import http
from outcome_exporter.receive.access import Access, CredentialError, TlsFiles
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.receive.grpc import GrpcReceiver
from outcome_exporter.receive.serving import ThreadedServer
from outcome_exporter.units import SECOND
from outcome_exporter.warmup import warm_up
from outcome_exporter.web import metrics_app

if TYPE_CHECKING:
    from outcome_exporter.selftracing import SelfTracing

logger = logging.getLogger(__name__)

_RECEIVED = (Kind.TRACES, Kind.LOGS, Kind.CLOUDEVENTS, Kind.METRICS)
_WAIT_SECONDS = 0.05
GRACE_SECONDS = 8.0
"""What requests that run get to finish when the exporter stops."""
PAGE_GRACE_SECONDS = 2.0
LOOK_SECONDS = 1.0
"""Between two looks at whether the pipeline has failed, and at a watched configuration."""
TURN_SECONDS = 0.0005
"""After which a thread that computes lets others have the interpreter. A request takes a dozen
turns: while 100,000 series are scraped every second, 99 of 100 are acknowledged within 21 ms, and
not 103 as with Python's own 5 ms. It costs nothing that could be measured."""
DEADLINE_SECONDS = 28.0
"""After it, stopping is given up: Kubernetes kills after 30 s."""


class Ended(BaseException):
    """A signal to end, while there is nothing to finish: no error, so that nothing catches it."""


class Server:
    """One running exporter."""

    def __init__(self, config_path: Path, clock: SteadyClock | None = None) -> None:
        """Opens the storage and takes the last checkpoint over.

        Raises:
            ConfigError: The configuration cannot work.
            StorageError: The storage cannot be used.
        """
        self._config_path = config_path
        self._clock = clock or SteadyClock()
        config = check.load(config_path).config
        otlp, page = config.receivers.otlp, config.metrics
        self._access = _access(
            str(config_path),
            {"receivers.otlp.grpc": otlp.grpc, "receivers.otlp.http": otlp.http, "metrics": page},
        )
        rpc_access, web_access, page_access = self._access.values()
        self._log, self._store, self._engine = _opened(config, self._clock)
        self._poller = Poller(self._log.append, lambda: self._engine.pipeline)
        self._clock.not_before((self._engine.pipeline.second or 0) * SECOND)
        self._tracing = _tracing(config)
        self._counters = ReceiverCounters()
        limit = otlp.max_request
        intake: Intake = DurableIntake(
            self._log.append,
            {kind: partial(self._engine.decode, kind) for kind in _RECEIVED},
            max_request_bytes=limit,
            admit=self._engine.admit,
        )
        if self._tracing is not None:
            intake = self._tracing.traced(intake)
        self._page = ThreadedServer(
            metrics_app(
                snapshot=self._snapshot,
                ready=self._not_ready,
                ailments=self._engine.ailments,
                reload=self.reload,
                config=lambda: self._engine.pipeline.config,
                now=self._clock,
                explain=lambda asked: self._engine.explain(partial(evidence.answer, asked=asked)),
                allows=page_access.allows,
            ),
            page.listen,
            tls=page_access.ssl_context(),
        )
        self._web = ThreadedServer(
            http.app(
                intake,
                self._counters,
                max_request_bytes=limit,
                access=web_access,
                origins=otlp.http.origins,
            ),
            otlp.http.listen,
            tls=web_access.ssl_context(),
        )
        self._rpc = GrpcReceiver(
            intake,
            self._counters,
            address=otlp.grpc.listen,
            max_request_bytes=limit,
            access=rpc_access,
        )
        self.begun = False
        """Whether there is something to finish; until then an exception may end `start`."""
        self.ports: tuple[int, ...] = ()
        """Of the page, OTLP over gRPC and OTLP over HTTP, while requests are accepted."""

    def start(self) -> None:
        """Begins to serve.

        Raises:
            ListenError: An address is taken.
        """
        logger.info("making ready; a first start compiles, which takes about a minute")
        page = self._page.start()
        logger.info("metrics and page on port %d", page)
        warm_up(self._engine.pipeline.config)
        # What is there now stays: the garbage collector need not look at it ever again.
        gc.freeze()
        self.begun = True
        self._engine.start()
        self._poller.start(self._clock, lambda: self._engine.not_ready() is None)
        self.ports = page, self._rpc.start(), self._web.start()
        logger.info("OTLP on port %d (gRPC) and %d (HTTP)", *self.ports[1:])

    def stop(self) -> None:
        """Finishes what was begun, checkpoints, and lets everything go."""
        self.ports = ()
        receivers = [
            threading.Thread(target=receiver.stop, args=(GRACE_SECONDS,))
            for receiver in (self._rpc, self._web)
        ]
        for stopping in receivers:
            stopping.start()
        for stopping in receivers:
            stopping.join()
        self._poller.stop(GRACE_SECONDS)
        self._engine.stop()
        self._page.stop(PAGE_GRACE_SECONDS)
        if self._tracing is not None:
            self._tracing.stop()
        self._log.close()
        self._store.close()

    def reload(self) -> None:
        """Takes the configuration file over as it is now.

        Raises:
            ConfigError: It cannot work, or needs a restart; the running one stays.
            StorageError: The checkpoint before it failed; the running one stays.
        """
        with self._span("reload"):
            self._reload()

    def _reload(self) -> None:
        if self.failure is not None:
            raise StorageError(f"the exporter has stopped: {self.failure}")
        try:
            config = check.load(self._config_path).config
            self._refuse_new_places(config)
            self._engine.reload(config)
        except Exception:
            self._engine.reload_failed()
            raise
        logger.info("configuration reloaded")

    def _refuse_new_places(self, config: Config) -> None:
        running = self._engine.pipeline.config
        problems = [
            Problem(name, "cannot change while the exporter runs", "restart it")
            for name in ("receivers", "metrics", "storage", "self_tracing")
            if getattr(running, name) != getattr(config, name)
        ]
        if problems:
            raise ConfigError(str(self._config_path), problems)

    @property
    def failure(self) -> Exception | None:
        """What stopped the pipeline, if anything did."""
        return self._engine.failure

    @property
    def checkpointed(self) -> int:
        """When the last checkpoint was written, in nanoseconds since 1970."""
        return self._engine.checkpointed

    def _not_ready(self) -> str | None:
        """None while requests are accepted and the log has been read; otherwise what is missing."""
        return self._engine.not_ready() or (None if self.ports else "no requests are accepted")

    def _snapshot(self) -> Snapshot:
        with self._span("scrape"):
            servers = {"receivers.otlp.http": self._web, "metrics": self._page}
            return {
                **self._engine.snapshot(),
                series.READY: [Sample((), float(self._not_ready() is None))],
                **self._counters.snapshot(),
                **self._poller.snapshot(),
                **process_snapshot(),
                series.CONNECTIONS: [
                    Sample((place,), float(server.connections)) for place, server in servers.items()
                ],
                series.CONNECTIONS_CUT: [
                    Sample((place, why), float(count))
                    for place, server in servers.items()
                    for why, count in server.cut.items()
                ],
                series.CREDENTIALS_OK: [
                    Sample((place,), float(access.ok)) for place, access in self._access.items()
                ],
                series.CLOCK_AHEAD: [Sample((), self._clock.ahead / SECOND)],
            }

    def _span(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self._tracing is None else self._tracing.span(name)


def _opened(config: Config, clock: SteadyClock) -> tuple[DurableLog, StateStore, Engine]:
    """What a configuration's storage holds, with the engine where it stopped."""
    folder = Path(config.storage.path)
    log = DurableLog(
        folder,
        max_bytes=config.storage.max_log,
        keep_nanoseconds=config.storage.keep_log,
        now=clock,
    )
    store = StateStore(folder)
    return log, store, Engine(config, log, store, clock, Seed.of(secrets.token_bytes(16)))


def backfill(config_path: Path) -> Iterator[tuple[str, int, int]]:
    """Fills the windows of SLOs that are read from Prometheus, while nothing else runs.

    Yields:
        Of an SLO: its name, minutes read, minutes to read.

    Raises:
        ConfigError: The configuration cannot work.
        SourceError: Prometheus does not say; what was read before is kept.
        StorageError: The storage cannot be used, for instance because the exporter runs.
    """
    config = check.load(config_path).config
    if not any(slo.sli.prometheus for slo in config.standalone):
        return  # and no folder is made of a storage that nobody needs
    clock = SteadyClock()
    log, store, engine = _opened(config, clock)
    try:
        engine.start()
        _wait_for(engine)
        yield from Poller(log.append, lambda: engine.pipeline).backfill(clock())
        _wait_for(engine)
    finally:
        engine.stop()
        log.close()
        store.close()


def _wait_for(engine: Engine) -> None:
    """Returns once the engine has taken in whatever the log holds."""
    while engine.behind() and engine.failure is None:
        time.sleep(_WAIT_SECONDS)
    if engine.failure is not None:
        raise StorageError(str(engine.failure)) from engine.failure


_PROCESS = ProcessCollector(registry=None)


def process_snapshot() -> Snapshot:
    """What the process itself costs; nothing where the system does not say, as outside Linux."""
    found = {sample.name: sample.value for m in _PROCESS.collect() for sample in m.samples}
    return {
        family: [Sample((), found[family.name])]
        for family in (series.PROCESS_CPU, series.PROCESS_MEMORY)
        if family.name in found
    }


def _access(file: str, listeners: Mapping[str, Listener]) -> dict[str, Access]:
    """Who may use each listener, by its path in the configuration."""
    access = {}
    problems = []
    for place, listener in listeners.items():
        try:
            access[place] = Access(
                place,
                tls=None if listener.tls is None else _files(listener.tls),
                token_files=[Path(token) for token in listener.tokens],
            )
        except CredentialError as error:
            problems.append(Problem(f"{place}.{error.key}", error.problem, error.remedy))
    if problems:
        raise ConfigError(file, problems)
    return access


def _files(tls: Tls) -> TlsFiles:
    client_ca = Path(tls.client_ca) if tls.client_ca else None
    return TlsFiles(Path(tls.certificate), Path(tls.key), client_ca)


def _tracing(config: Config) -> "SelfTracing | None":
    if config.self_tracing is None:
        return None
    # The SDK takes a while to import, and is needed by few.
    from outcome_exporter.selftracing import SelfTracing  # noqa: PLC0415

    return SelfTracing(config.self_tracing.endpoint, config.self_tracing.ratio)


def _allow_many_files() -> None:
    """Connections are files: the soft limit is often 1,024, and each process may raise its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class WatchedFile:
    """A file whose content may change.

    Looked at by content, not by time or inode: a volume made from a ConfigMap swaps a symbolic
    link, an editor replaces the file, and `touch` changes nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._content()

    def changed(self) -> bool:
        """Whether the content is another one than at the last look; not while there is no file."""
        content = self._content()
        if content is None or content == self._seen:
            return False
        self._seen = content
        return True

    def look_again(self) -> None:
        """Whatever the content is at the next look, it is a change."""
        self._seen = None

    def _content(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            return None


class Reloading:
    """When the configuration is taken over: on request, and when a watched file has changed.

    What the storage refused is tried again once a checkpoint was written, which the pipeline tries
    at its own pace: until then the disk has no room for this one either. An error of the file
    itself waits for another content.
    """

    def __init__(
        self,
        reload: Callable[[], None],
        watched: WatchedFile | None,
        checkpointed: Callable[[], int],
    ) -> None:
        """Nothing was asked for yet.

        Args:
            reload: Takes the file over.
            watched: The file, if it is watched.
            checkpointed: When the last checkpoint was written.
        """
        self._reload = reload
        self._watched = watched
        self._checkpointed = checkpointed
        self._refused: int | None = None
        """The last checkpoint when the storage refused; None once it is to be tried again."""

    def look(self, *, asked: bool) -> None:
        """Reloads if somebody asked for it or the file says so; errors are logged."""
        if self._watched and self._refused is not None and self._refused != self._checkpointed():
            self._refused = None
            self._watched.look_again()
        if not asked and not (self._watched and self._watched.changed()):
            return
        self._refused = None
        try:
            self._reload()
        except ConfigError as error:
            for problem in error.problems:
                logger.error("not reloaded: %s", problem.in_file(error.file))  # noqa: TRY400 - no bug, no traceback
        except OutcomeExporterError as error:
            logger.error("not reloaded: %s", error)  # noqa: TRY400
            # What is damaged stays so: the next checkpoint stops the exporter.
            if not isinstance(error, LogCorrupt | StateCorrupt):
                self._refused = self._checkpointed()
        except Exception:  # whatever it is, the one that runs goes on
            logger.exception("not reloaded because of a defect")


def serve(
    config_path: Path, log_format: diagnostics.Format = "text", *, watch: bool = False
) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reloads the configuration.

    With `watch`, a change of the file's content does so, too, within LOOK_SECONDS; one that the
    storage refuses is tried again after the next checkpoint that it takes.

    Raises:
        ConfigError: The configuration cannot work.
        StorageError: The storage cannot be used, or stopped working.
        ListenError: An address is taken.
    """
    diagnostics.setup(log_format)
    _allow_many_files()
    sys.setswitchinterval(TURN_SECONDS)
    # Before the server reads the file: what changes meanwhile is then seen, not missed.
    watched = WatchedFile(config_path) if watch else None
    server = Server(config_path)
    reloading = Reloading(server.reload, watched, lambda: server.checkpointed)
    wake = threading.Event()
    asked: list[int] = []

    def is_to_end() -> bool:
        return signal.SIGTERM in asked or signal.SIGINT in asked

    def on_signal(number: int, _frame: FrameType | None) -> None:
        knew = is_to_end()
        asked.append(number)
        wake.set()
        if is_to_end() and not knew and not server.begun:
            raise Ended  # compiling takes longer than whoever asked waits

    try:
        with suppress(Ended):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, on_signal)
            server.start()
        while not server.failure:
            wake.wait(LOOK_SECONDS)
            wake.clear()
            if is_to_end():
                break
            hung_up = False
            while signal.SIGHUP in asked:
                asked.remove(signal.SIGHUP)
                hung_up = True
            reloading.look(asked=hung_up)
    finally:
        logger.info("stopping: finishing what was begun")
        overdue = threading.Timer(DEADLINE_SECONDS, _give_up)
        overdue.daemon = True
        overdue.start()
        server.stop()
        overdue.cancel()
        logger.info("stopped")
    if server.failure:
        raise StorageError(str(server.failure)) from server.failure


def _give_up() -> None:
    logger.error(
        "stopping took longer than %g s, perhaps the disk hangs: ended without the last checkpoint;"
        " nothing acknowledged is lost, the log has it",
        DEADLINE_SECONDS,
    )
    os._exit(1)
