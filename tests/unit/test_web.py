"""What port 9464 answers, asked over a real socket."""

import gzip
import http.client
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
import yaml
from tests import snapshots

from outcome_exporter import series
from outcome_exporter.config import Config
from outcome_exporter.errors import ConfigError, Problem
from outcome_exporter.exposition import CONTENT_TYPE_OPENMETRICS, CONTENT_TYPE_TEXT, render
from outcome_exporter.model import Sample, Snapshot
from outcome_exporter.web import config_as_yaml, metrics_app

SECURITY_HEADERS = ("content-security-policy", "referrer-policy", "x-content-type-options")


@dataclass
class Exporter:
    """What stands behind the application; tests change it while it runs."""

    port: int = 0
    snapshot: Snapshot = field(default_factory=lambda: snapshots.healthy().snapshot)
    not_ready: str | None = None
    ailments: Sequence[str] = ()
    config: Config = snapshots.CONFIG
    broken_file: ConfigError | None = None
    reloads: int = 0

    def reload(self) -> None:
        if self.broken_file is not None:
            raise self.broken_file
        self.reloads += 1

    def ask(self, path, *, method="GET", body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, dict_of(response.getheaders()), response.read())
        finally:
            connection.close()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def dict_of(headers):
    return {name.lower(): value for name, value in headers}


@pytest.fixture(scope="module")
def server() -> Iterator[Exporter]:
    exporter = Exporter()
    app = metrics_app(
        snapshot=lambda: exporter.snapshot,
        ready=lambda: exporter.not_ready,
        ailments=lambda: exporter.ailments,
        reload=exporter.reload,
        config=lambda: exporter.config,
        now=lambda: snapshots.NOW,
        explain=lambda asked: {"asked": asked.journey} if asked.journey == "checkout" else None,
    )
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", ws="none")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.005)
    exporter.port = server.servers[0].sockets[0].getsockname()[1]
    yield exporter
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def exporter(server: Exporter) -> Exporter:
    fresh = Exporter(port=server.port)
    for name in vars(fresh):
        setattr(server, name, getattr(fresh, name))
    return server


def test_metrics_are_plain_text_by_default(exporter):
    answer = exporter.ask("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == CONTENT_TYPE_TEXT
    assert answer.body == render(exporter.snapshot, openmetrics=False)
    assert "content-encoding" not in answer.headers


def test_metrics_are_openmetrics_for_those_who_ask(exporter):
    answer = exporter.ask("/metrics", accept="application/openmetrics-text;version=1.0.0")
    assert answer.headers["content-type"] == CONTENT_TYPE_OPENMETRICS
    assert answer.body == render(exporter.snapshot, openmetrics=True)
    assert answer.headers["vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize("path", ["/metrics", "/"])
def test_what_is_long_is_gzipped_where_that_is_accepted(exporter, path):
    plain = exporter.ask(path)
    packed = exporter.ask(path, accept_encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) == len(packed.body) < len(plain.body)
    assert gzip.decompress(packed.body) == plain.body
    assert "content-encoding" not in exporter.ask(path, accept_encoding="gzip;q=0").headers


def test_the_page_is_the_page_of_the_same_snapshot(exporter):
    answer = exporter.ask("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "All journeys are fine." in answer.text
    exporter.snapshot = snapshots.burning().snapshot
    assert "All journeys are fine." not in exporter.ask("/").text


def test_the_page_refreshes_itself_unless_told_otherwise(exporter):
    assert 'http-equiv="refresh"' in exporter.ask("/").text
    assert 'http-equiv="refresh"' not in exporter.ask("/?refresh=off").text


def test_the_page_says_that_the_exporter_is_not_ready(exporter):
    exporter.not_ready = "replaying the log: 1,200 of 9,000 records"
    assert "replaying the log: 1,200 of 9,000 records" in exporter.ask("/").text


def test_lone_surrogates_break_neither_page_nor_metrics(exporter):
    burning = snapshots.burning().snapshot
    cause = ("checkout", "pay\ud800ment", "charge", "", "error")
    exporter.snapshot = {**burning, series.BLAME: [Sample(cause, 5.0)]}
    assert exporter.ask("/").status == 200
    assert rb"pay\\ud800ment" in exporter.ask("/metrics").body


def test_healthz_answers_also_when_not_ready(exporter):
    exporter.not_ready = "replaying"
    answer = exporter.ask("/healthz")
    assert (answer.status, answer.text) == (200, "ok\n")


def test_healthz_says_what_a_restart_would_not_mend(exporter):
    exporter.ailments = ["requests are refused, the log was not written: disk full", "and more"]
    answer = exporter.ask("/healthz")
    assert answer.status == 200
    assert answer.text == (
        "ok\nrequests are refused, the log was not written: disk full\nand more\n"
    )


def test_readyz_tells_why_not_and_then_that_it_is(exporter):
    exporter.not_ready = "replaying the log: 1,200 of 9,000 records"
    answer = exporter.ask("/readyz")
    assert answer.status == 503
    assert answer.text == "not ready: replaying the log: 1,200 of 9,000 records\n"
    exporter.not_ready = None
    assert exporter.ask("/readyz").status == 200


def test_reload_takes_a_post(exporter):
    answer = exporter.ask("/-/reload", method="POST")
    assert (answer.status, answer.text, exporter.reloads) == (200, "reloaded\n", 1)


def test_reload_refuses_a_get_and_reloads_nothing(exporter):
    answer = exporter.ask("/-/reload")
    assert (answer.status, answer.headers["allow"], exporter.reloads) == (405, "POST", 0)
    assert answer.text == "/-/reload does not take GET; it takes POST\n"


def test_a_reload_that_fails_lists_every_problem(exporter):
    exporter.broken_file = ConfigError(
        "config.yaml",
        [Problem("journeys[0].slos[0].objective", "100 leaves no error budget", "use 99.99")],
    )
    answer = exporter.ask("/-/reload", method="POST")
    assert answer.status == 500
    assert answer.text == (
        "not reloaded, the running configuration stays:\n"
        "config.yaml: journeys[0].slos[0].objective: 100 leaves no error budget; use 99.99\n"
    )


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_cannot_reload(exporter, site):
    answer = exporter.ask("/-/reload", method="POST", sec_fetch_site=site)
    assert (answer.status, exporter.reloads) == (403, 0)


@pytest.mark.parametrize("config", [snapshots.CONFIG, snapshots.UNCONFIGURED])
def test_the_configuration_reads_back_as_it_runs(exporter, config):
    exporter.config = config
    answer = exporter.ask("/config")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert Config.model_validate(yaml.safe_load(answer.text)) == config


def test_the_configuration_is_written_as_people_write_it():
    text = config_as_yaml(snapshots.CONFIG)
    assert "objective: 99.5\n" in text
    assert "window: 28d\n" in text
    assert not any(sign in text for sign in ("!", "&", "null"))


@pytest.mark.parametrize("path", ["/", "/metrics", "/config", "/healthz", "/readyz"])
def test_head_is_a_get_without_its_body(exporter, path):
    head, get = exporter.ask(path, method="HEAD"), exporter.ask(path)
    assert (head.status, head.body) == (get.status, b"")
    for answer in (head, get):
        answer.headers.pop("date")
    assert head.headers == get.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/metrics", 200),
        ("GET", "/config", 200),
        ("GET", "/readyz", 200),
        ("POST", "/-/reload", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/metrics/", 404),
        ("POST", "/metrics", 405),
        ("OPTIONS", "/", 405),
    ],
)
def test_every_answer_has_the_security_headers_and_no_cors(exporter, method, path, status):
    answer = exporter.ask(path, method=method, origin="https://elsewhere.example")
    assert answer.status == status
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert not any(name.startswith("access-control-") for name in answer.headers)


def test_an_unknown_path_is_told_what_there_is(exporter):
    answer = exporter.ask("/metric")
    assert answer.status == 404
    assert "/metrics" in answer.text


def test_a_broken_series_is_named_and_costs_only_its_request(exporter):
    exporter.snapshot = {series.SLO_SLI: [Sample(("checkout", "5m"), float("nan"))]}
    answer = exporter.ask("/metrics")
    assert answer.status == 500
    assert answer.text.startswith("slo_sli_ratio{checkout, 5m}: nan is no value; this is a defect")
    assert all(name in answer.headers for name in SECURITY_HEADERS)
    exporter.snapshot = snapshots.healthy().snapshot
    assert exporter.ask("/metrics").status == 200


def test_scrapes_wait_for_each_other_and_health_waits_for_none(exporter):
    """Ten scrapes hang in the snapshot; two run, and /healthz answers all the same."""
    running, most = 0, 0
    lock, go_on = threading.Lock(), threading.Event()
    two_run = threading.Event()

    class Slow(dict):
        def __contains__(self, family):
            nonlocal running, most
            if family is series.ALL[0]:
                with lock:
                    running += 1
                    most = max(most, running)
                    if running == 2:
                        two_run.set()
                assert go_on.wait(10)
                with lock:
                    running -= 1
            return super().__contains__(family)

    exporter.snapshot = Slow(snapshots.fresh().snapshot)
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(exporter.ask("/metrics").status))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    assert two_run.wait(10)
    assert exporter.ask("/healthz").status == 200
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert (statuses, most) == ([200] * 10, 2)


def test_templates_are_packaged_beside_the_module():
    folder = Path(render.__code__.co_filename).parent / "templates"
    assert {file.name for file in folder.iterdir()} >= {"page.html.jinja", "page.css"}


def test_the_page_links_the_traces_of_bad_outcomes_and_causes(exporter):
    exporter.snapshot = snapshots.burning().snapshot
    exporter.config = snapshots.CONFIG.model_copy(
        update={"trace_url": "https://traces.example.com/trace/{trace_id}?view=tree"}
    )
    page = exporter.ask("/").text
    samples = exporter.snapshot[series.BLAME]
    trace_id = next(s.exemplar.trace_id for s in samples if s.exemplar is not None)
    link = f'href="https://traces.example.com/trace/{trace_id}?view=tree"'
    assert page.count(link) > 1
    assert page.count(f"{link} title=") == len(
        {s.labels[2] for s in exporter.snapshot[series.ATTEMPTS] if s.exemplar is not None}
    )
    exporter.config = snapshots.CONFIG
    assert "traces.example.com" not in exporter.ask("/").text


def test_explanations_are_json_and_what_is_unknown_says_what_to_do(exporter):
    answer = exporter.ask("/explain?journey=checkout")
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == '{"asked": "checkout"}'
    unknown = exporter.ask(f"/explain/{'ab' * 16}")
    assert unknown.status == 404
    assert "limits.explained" in unknown.text
    assert exporter.ask("/explain/12").status == 400
    assert exporter.ask("/explain").status == 400
    assert exporter.ask("/explain?journey=checkout&since=soon").status == 400
