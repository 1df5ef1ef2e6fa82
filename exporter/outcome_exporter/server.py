"""`outcome-exporter serve`: the outermost layer, which reads the clock, the files and the signals.

Starts the log, the pipeline, the receivers and the page, in this order, and stops them in the
other: no request is accepted that is not durable, and none is cut while it becomes so.
"""

import logging
import signal
import threading
import time
from functools import partial
from pathlib import Path
from types import FrameType

from prometheus_client import ProcessCollector

from outcome_exporter import check, series
from outcome_exporter.checkpoint import StateStore
from outcome_exporter.config import Config
from outcome_exporter.engine import Engine
from outcome_exporter.errors import ConfigError, OutcomeExporterError, Problem, StorageError
from outcome_exporter.intake import DurableIntake
from outcome_exporter.log import DurableLog
from outcome_exporter.model import OWN_KINDS, Kind, Sample, Snapshot
from outcome_exporter.receive import http
from outcome_exporter.receive.counters import ReceiverCounters
from outcome_exporter.receive.grpc import GrpcReceiver
from outcome_exporter.receive.serving import ThreadedServer
from outcome_exporter.warmup import warm_up
from outcome_exporter.web import metrics_app

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""What requests that run get to finish when the exporter stops."""


class Server:
    """One running exporter."""

    def __init__(self, config_path: Path) -> None:
        """Opens the storage and takes the last checkpoint over.

        Raises:
            ConfigError: The configuration cannot work.
            StorageError: The storage cannot be used.
        """
        self._config_path = config_path
        config = check.load(config_path).config
        folder = Path(config.storage.path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: {error.strerror}; set storage.path") from None
        self._log = DurableLog(
            folder,
            max_bytes=config.storage.max_log,
            keep_nanoseconds=config.storage.keep_log,
            now=time.time_ns,
        )
        self._store = StateStore(folder)
        self._engine = Engine(config, self._log, self._store, time.time_ns)
        self._counters = ReceiverCounters()
        limit = config.receivers.otlp.max_request
        intake = DurableIntake(
            self._log.append,
            {kind: partial(self._engine.decode, kind) for kind in Kind if kind not in OWN_KINDS},
            max_request_bytes=limit,
            admit=self._engine.admit,
        )
        grpc, web = config.receivers.otlp.grpc, config.receivers.otlp.http
        self._page = ThreadedServer(
            metrics_app(
                snapshot=self._snapshot,
                ready=self._engine.not_ready,
                reload=self.reload,
                config=lambda: self._engine.pipeline.config,
                now=time.time_ns,
            ),
            config.metrics.listen,
        )
        self._receivers: tuple[GrpcReceiver | ThreadedServer, ...] = (
            GrpcReceiver(intake, self._counters, address=grpc, max_request_bytes=limit),
            ThreadedServer(http.app(intake, self._counters, max_request_bytes=limit), web),
        )
        self._addresses = (config.metrics.listen, grpc, web)
        self.ports: tuple[int, ...] = ()
        """Of the page, OTLP over gRPC and OTLP over HTTP, once started."""

    def start(self) -> None:
        """Begins to serve.

        Raises:
            ListenError: An address is taken.
        """
        page = self._page.start()
        logger.info("metrics and page on port %d", page)
        warm_up(self._engine.pipeline.config)
        self._engine.start()
        self.ports = (page, *(receiver.start() for receiver in self._receivers))
        logger.info("OTLP on port %d (gRPC) and %d (HTTP)", *self.ports[1:])

    def stop(self) -> None:
        """Finishes what was begun, checkpoints, and lets everything go."""
        for receiver in self._receivers:
            receiver.stop(GRACE_SECONDS)
        self._engine.stop()
        self._page.stop(GRACE_SECONDS)
        self._log.close()
        self._store.close()

    def reload(self) -> None:
        """Takes the configuration file over as it is now.

        Raises:
            ConfigError: It cannot work, or needs a restart; the running one stays.
            StorageError: The checkpoint before it failed; the running one stays.
        """
        try:
            config = check.load(self._config_path).config
            self._refuse_new_places(config)
            self._engine.reload(config)
        except ConfigError:
            self._engine.reload_failed()
            raise
        logger.info("configuration reloaded")

    def _refuse_new_places(self, config: Config) -> None:
        running = self._engine.pipeline.config
        problems = [
            Problem(name, "cannot change while the exporter runs", "restart it")
            for name in ("receivers", "metrics", "storage")
            if getattr(running, name) != getattr(config, name)
        ]
        if problems:
            raise ConfigError(str(self._config_path), problems)

    @property
    def failure(self) -> Exception | None:
        """What stopped the pipeline, if anything did."""
        return self._engine.failure

    def _snapshot(self) -> Snapshot:
        return {**self._engine.snapshot(), **self._counters.snapshot(), **process_snapshot()}


_PROCESS = ProcessCollector(registry=None)


def process_snapshot() -> Snapshot:
    """What the process itself costs; nothing where the system does not say, as outside Linux."""
    found = {sample.name: sample.value for m in _PROCESS.collect() for sample in m.samples}
    return {
        family: [Sample((), found[family.name])]
        for family in (series.PROCESS_CPU, series.PROCESS_MEMORY)
        if family.name in found
    }


def serve(config_path: Path) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reloads the configuration.

    Raises:
        ConfigError: The configuration cannot work.
        StorageError: The storage cannot be used, or stopped working.
        ListenError: An address is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    server = Server(config_path)
    wake = threading.Event()
    asked: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        server.start()
        while not server.failure:
            wake.wait(1.0)
            wake.clear()
            if signal.SIGTERM in asked or signal.SIGINT in asked:
                break
            if asked:
                asked.clear()
                try:
                    server.reload()
                except OutcomeExporterError as error:
                    logger.error("not reloaded:\n%s", error)  # noqa: TRY400 - no bug, no traceback
    finally:
        server.stop()
    if server.failure:
        raise StorageError(str(server.failure)) from server.failure
