"""`demo`: a real exporter and a real shop, each a process of its own, and a screen to watch them.

    this process ──starts──▶ outcome-exporter serve   (throw-away folder, ports of this machine)
                 ──starts──▶ the shop                 (OTLP over gRPC, events over HTTP)
                 ◀─reads──── /metrics, once a second

Whatever ends the demo (its end, Ctrl-C, SIGTERM, a closed terminal, a failure), both processes are
ended and the folder is removed.
"""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType
from typing import IO, Any

import yaml
from rich.console import Console
from rich.live import Live

from outcome_exporter.config import Config
from outcome_exporter.demo import screen, settings
from outcome_exporter.demo.faults import Announcement
from outcome_exporter.demo.ledger import Expected

_START_SECONDS_MAX = 180.0
"""The first start compiles the hot loops, which takes a while on a small machine."""
_STOP_SECONDS_MAX = 15.0
_SLACK_SECONDS = 20.0
"""Beyond the configured times, before numbers that differ count as different."""
_REFRESH_SECONDS = 1.0
_LINES_SECONDS = 15.0
"""Between two reports where nothing can be drawn over."""
_LOG_LINES = 20
_OK = 200


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where everything is."""

    file: Path
    """The configuration; logs and storage lie beside it."""
    config: Config

    @property
    def port(self) -> int:
        """Of the metrics and the page."""
        return int(self.config.metrics.listen.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class _Program:
    """A child process and what it says."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def ended(self) -> DemoError:
        """Its end, as an error with the last it said."""
        said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        return DemoError(
            "\n  ".join([f"{self.name} ended with code {self.process.wait()}. It said:", *said])
        )


def run(out: Console, *, seconds: float, seed: int) -> bool:
    """Runs the demo.

    Returns:
        Whether the exporter counted what the shop knows.

    Raises:
        DemoError: A part of it does not run.
        KeyboardInterrupt: It was ended early; everything is cleaned up.
    """
    with (
        _interruptible() as hold,
        tempfile.TemporaryDirectory(prefix="outcome-exporter-demo-") as folder,
    ):
        place = _furnish(Path(folder), out)
        serve = ["outcome_exporter", "serve", "-c", str(place.file)]
        shop = ["outcome_exporter.demo.shop", "--attached", "--config", str(place.file)]
        shop += ["--seconds", str(seconds), "--seed", str(seed)]
        with _program("the exporter", serve, place, hold, stdout=subprocess.DEVNULL) as exporter:
            with out.status("Starting the exporter (the first time it compiles, be patient) …"):
                _wait_until_ready(place, exporter)
            page = f"http://localhost:{place.port}/"
            screen.introduce(
                out,
                f"  status page  [link={page}]{page}[/link]\n"
                f"  all numbers  [link={page}metrics]{page}metrics[/link]\n"
                f"  to leave     Ctrl-C, at any time; nothing is left behind",
            )
            with _program("the shop", shop, place, hold, stdout=subprocess.PIPE) as visitors:
                return _watch(out, place, exporter, visitors)


def _furnish(folder: Path, out: Console) -> _Place:
    """Writes the configuration for this run, on ports that are free."""
    values = settings.read()
    otlp, metrics = values["receivers"]["otlp"], values["metrics"]
    for section, key in ((otlp, "grpc"), (otlp, "http"), (metrics, "listen")):
        host, _, port = section[key].rpartition(":")
        free = _free_port(host, int(port))
        if free != int(port):
            out.print(f"Port {port} is taken by another program; using {free} instead.")
            section[key] = f"{host}:{free}"
    values["storage"]["path"] = str(folder / "data")
    file = folder / "demo.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return _Place(file, Config.model_validate(values))


def _free_port(host: str, wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As servers do: a port whose last connections are still dying out is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise DemoError(f"no free port on {host}")


@contextmanager
def _program(
    name: str, arguments: list[str], place: _Place, hold: "_Hold", *, stdout: int
) -> Iterator[_Program]:
    """Runs a module of this package beside us, until the block ends."""
    log = place.file.with_name(f"{arguments[0]}.log")
    process: subprocess.Popen[bytes] | None = None
    try:
        # Interrupted half-way through its start, the process would run on without us.
        with log.open("wb") as errors, hold:
            # A session of its own: Ctrl-C and a closing terminal reach us alone, and we end it.
            process = subprocess.Popen(  # noqa: S603 - the demo's own two programs
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=errors,
                env=_environment(),
                cwd=place.file.parent,
                start_new_session=True,
            )
        yield _Program(name, process, log)
    finally:
        if process is not None:
            with process:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()


def _environment() -> dict[str, str]:
    """Ours, without what would send the demo's telemetry elsewhere or change it."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OTEL_") and not name.upper().endswith("_PROXY")
    }


def _wait_until_ready(place: _Place, exporter: _Program) -> None:
    deadline = time.monotonic() + _START_SECONDS_MAX
    while not _is_ready(place):
        if exporter.process.poll() is not None:
            raise exporter.ended()
        if time.monotonic() > deadline:
            raise DemoError(f"the exporter was not ready within {_START_SECONDS_MAX:.0f} s")
        time.sleep(0.1)


def _is_ready(place: _Place) -> bool:
    """Whether our exporter is: a demo that began with us may have been faster at the same port."""
    if _get(place, "/readyz") is None:
        return False
    # The folder's name alone: whatever lies around it YAML may write in another way.
    return place.file.parent.name in (_get(place, "/config") or "")


def _watch(out: Console, place: _Place, exporter: _Program, shop: _Program) -> bool:
    """Shows what happens until everything has been counted."""
    assert shop.process.stdout is not None
    said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(shop.process.stdout, said), daemon=True).start()
    expected: list[Expected] | None = None
    reading = screen.Reading({})
    deadline = float("inf")
    with _view(out, place.config) as show:
        while time.monotonic() < deadline:
            for message in _messages(said):
                if message is None and expected is None:
                    raise shop.ended()
                if message is not None and "tell" in message:
                    screen.tell(out, Announcement(**message["tell"]))
                if message is not None and "expected" in message:
                    expected = [Expected(**row) for row in message["expected"]]
                    wait = settings.settle_seconds(place.config)
                    deadline = time.monotonic() + wait + _SLACK_SECONDS
                    out.print(f"The shop has closed. The last verdicts fall within {wait:.0f} s.\n")
            if exporter.process.poll() is not None:
                raise exporter.ended()
            text = _get(place, "/metrics")
            if text is not None:
                reading = screen.read_exposition(text)
                show(reading)
            if expected is not None and not screen.differences(expected, reading):
                break
    assert expected is not None
    out.print(screen.tables(place.config, reading))
    out.print()
    agrees = screen.summarise(out, expected, reading)
    screen.explain_budget(out)
    return agrees


def _listen(pipe: IO[bytes], said: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    for line in pipe:
        said.put(json.loads(line))
    said.put(None)


def _messages(
    said: "queue.SimpleQueue[dict[str, Any] | None]",
) -> Iterator[dict[str, Any] | None]:
    """What is said within the next second, as it is said."""
    until = time.monotonic() + _REFRESH_SECONDS
    while (left := until - time.monotonic()) > 0:
        try:
            message = said.get(timeout=left)
        except queue.Empty:
            return
        yield message


@contextmanager
def _view(out: Console, config: Config) -> Iterator[Callable[[screen.Reading], None]]:
    """A table that is drawn over where that is possible; elsewhere some lines now and then."""
    if out.is_terminal:
        with Live(console=out, auto_refresh=False, transient=True) as live:
            yield lambda reading: live.update(screen.tables(config, reading), refresh=True)
        return
    start = last = time.monotonic()

    def show(reading: screen.Reading) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINES_SECONDS:
            last = now
            out.print("\n".join(screen.lines(config, reading, now - start)) + "\n")

    yield show


def _get(place: _Place, path: str) -> str | None:
    """The body of a page of the exporter; None if it does not answer with 200."""
    connection = HTTPConnection("127.0.0.1", place.port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == _OK else None


class _Hold:
    """Within it, an interruption waits until the block has ended."""

    def __init__(self) -> None:
        self._holding = False
        self._interrupted = False

    def interrupt(self) -> None:
        self._interrupted = True
        if not self._holding:
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        self._holding = True

    def __exit__(self, *_: object) -> None:
        self._holding = False
        if self._interrupted:
            raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[_Hold]:
    """Ends the block by KeyboardInterrupt on any signal that asks us to go, once."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    hold = _Hold()

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        # An impatient second Ctrl-C must not interrupt the cleaning up.
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        hold.interrupt()

    before = {each: signal.signal(each, interrupt) for each in signals}
    try:
        yield hold
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
