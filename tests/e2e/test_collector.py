"""The Collector configurations that we give away, with a real Collector."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.fire.process import config, exporting, free_ports, post, spans, until
from tests.programs import require
from tests.receivers import running

EXAMPLES = Path(__file__).parents[2] / "examples" / "collector"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def otelcol():
    return require("otelcol")


@contextlib.contextmanager
def collecting(otelcol, file, **environment):
    """A Collector that runs, its own metrics off; ends it as a node would."""
    command = [otelcol, f"--config={file}", "--set=service::telemetry::metrics::level=none"]
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def sent(port, body):
    try:
        return post(port, body) == 200
    except OSError:
        return False


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_collector_takes_every_configuration(otelcol, file, tmp_path):
    done = subprocess.run(
        [otelcol, "validate", f"--config={file}"],
        env={**os.environ, "QUEUE_FOLDER": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(300)
def test_outcomes_are_counted_before_sampling_and_what_waits_outlives_the_collector(
    otelcol, tmp_path
):
    listen_grpc, listen_http, grpc, http, page = free_ports(5)
    places = {
        "receivers": {"otlp": {"grpc": f"127.0.0.1:{grpc}", "http": f"127.0.0.1:{http}"}},
        "metrics": {"listen": f"127.0.0.1:{page}"},
    }
    now = time.time_ns()
    with running() as kept:
        environment = {
            "LISTEN_GRPC": f"127.0.0.1:{listen_grpc}",
            "LISTEN_HTTP": f"127.0.0.1:{listen_http}",
            "OUTCOME_EXPORTER": f"127.0.0.1:{grpc}",
            "TRACES_BACKEND": f"127.0.0.1:{kept.grpc_port}",
            "QUEUE_FOLDER": str(tmp_path / "queue"),
        }
        before = EXAMPLES / "before-sampling.yaml"
        with collecting(otelcol, before, **environment):
            good = spans(300, first=1, start=now)
            until(lambda: sent(listen_http, good))
            assert sent(listen_http, spans(20, first=1001, start=now, error=True))
            # The exporter is not there yet: what it should have waits on disk.
        with (
            collecting(otelcol, before, **environment),
            exporting(tmp_path / "config.yaml", config(tmp_path, **places)) as exporter,
        ):
            until(lambda: exporter.total("slo_events_total", 'result="good"') == 300, 120)
            assert exporter.total("slo_events_total", 'result="bad"') == 20

        traces = {int.from_bytes(span.trace_id) for span in kept.inbox.spans()}
    assert traces >= set(range(1001, 1021)), "every failed trace is kept"
    assert len(traces) < 150, "and few of the others"
