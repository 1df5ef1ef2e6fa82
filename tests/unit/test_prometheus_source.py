"""Reading from a Prometheus that is made up: what a poll counts, and when it asks again."""

import json
import socket
import time
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from threading import Event, Thread

import numpy as np
import pytest
from tests.scenario import MemoryStore

from outcome_exporter import prometheus_source
from outcome_exporter.config import Config
from outcome_exporter.config.process import Prometheus
from outcome_exporter.errors import DecodeError, SourceError
from outcome_exporter.model import VERDICT, Encoding, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.polled import decode_polled, encode_polled
from outcome_exporter.prometheus_source import HttpApi, Poller, Refused, TooMuch, poll
from outcome_exporter.promql import is_selector
from outcome_exporter.units import MILLIONTHS, MINUTE, SECOND

FIRST = 26_666_667
"""A minute."""
START = FIRST * 60
SLI = {"bad": 'requests_total{code="500"}', "total": "requests_total"}


def config_of(sli=SLI, window="1h", **settings):
    return Config.model_validate(
        {
            "prometheus": {"url": "http://prometheus:9090", **settings},
            "slos": [
                {"name": "slo", "objective": 99, "window": window, "sli": {"prometheus": sli}}
            ],
        },
        context={"from_file": True},
    )


class Made:
    """Answers from samples: label values → (seconds after START, value)."""

    def __init__(self, series):
        self.series = series
        self.queries = []
        self.failures = deque()

    def __call__(self, path, parameters):
        self.queries.append((path, parameters))
        if self.failures:
            raise self.failures.popleft()
        query, now = parameters["query"], int(parameters["time"]) - START
        last_only = query.startswith("last_over_time(")
        selector, _, length = query.removeprefix("last_over_time(").partition("[")
        begin = now - int(length.partition("s]")[0])
        found = []
        for code, samples in self.series.items():
            if code != "500" and "500" in selector:
                continue
            values = [[START + t, str(v)] for t, v in samples if begin <= t <= now]
            metric = {"code": code, "instance": "shop", "job": "shop"}
            if values and last_only:
                found.append({"metric": metric, "value": [START + now, values[-1][1]]})
            elif values:
                found.append({"metric": metric, "values": values})
        return found


def counted(series, minutes=10, first=FIRST, **settings):
    """Good and bad events by minute after FIRST, in a single poll."""
    config = config_of(**settings)
    polled = poll(Made(series), config.standalone[0], config.prometheus, first, first + minutes, 7)
    return {
        minute - FIRST: (good / 1e6, bad / 1e6) for minute, good, bad in polled.counts
    }, polled.births


def test_counters_count_in_the_minutes_of_their_samples():
    series = {"200": [(0, 5), (30, 7), (90, 12)], "500": [(0, 1), (30, 1), (90, 2)]}
    assert counted(series) == ({0: (4.5, 0.5), 1: (2.5, 0.5)}, 0)


def test_a_reset_adds_what_was_counted_since():
    assert counted({"200": [(0, 100), (30, 110), (60, 4)]}) == ({0: (14, 0)}, 0)


def test_a_series_whose_first_sample_is_1_had_one_event():
    assert counted({str(pod): [(45, 1), (50, 1)] for pod in range(4)}) == ({0: (4, 0)}, 0)


def test_a_series_that_begins_too_high_is_an_old_process():
    assert counted({"200": [(45, 101), (50, 103)]}) == ({0: (2, 0)}, 1)
    assert counted({"200": [(45, 101)]}, births_max=200) == ({0: (101, 0)}, 0)


def test_of_an_old_process_not_only_the_errors_count():
    series = {"200": [(45, 15_000), (50, 15_003)], "500": [(45, 40), (50, 41)]}
    assert counted(series) == ({0: (3, 1)}, 3)
    later = {"200": [(45, 15_000), (50, 15_003)], "500": [(50, 1)]}
    assert counted(later) == ({0: (3, 1)}, 1)


def test_the_increase_over_a_gap_is_spread_over_it():
    assert counted({"200": [(0, 0), (180, 6)]}) == ({0: (2, 0), 1: (2, 0), 2: (2, 0)}, 0)


def test_a_gap_before_the_poll_counts_in_it_while_the_series_is_remembered():
    found, births = counted({"200": [(-1800, 500), (60, 506)]}, lookback="1h")
    assert (sum(good for good, _ in found.values()), births) == (6, 0)
    assert counted({"200": [(-1800, 500), (60, 506)]}, lookback="20m") == ({}, 1)


def test_however_time_is_cut_into_polls_the_same_is_counted():
    series = {
        "200": [(15 * n - 593, 3 * n) for n in range(200) if n % 7],
        "500": [(15 * n - 593, n % 50) for n in range(200)],
    }
    config = config_of()

    def read(first, end):
        ask, slo = Made(series), config.standalone[0]
        return poll(ask, slo, config.prometheus, FIRST + first, FIRST + end, 7).counts

    pieces = Counter()
    for first, end in pairwise((0, 1, 2, 9, 10, 29, 30)):
        for minute, good, bad in read(first, end):
            pieces[minute, "good"] += good
            pieces[minute, "bad"] += bad
    whole = Counter()
    for minute, good, bad in read(0, 30):
        whole |= {(minute, "good"): good, (minute, "bad"): bad}
    assert pieces == whole


def test_what_is_no_number_counts_nothing():
    assert counted({"200": [(0, 5), (15, "NaN"), (30, 6)]}) == ({0: (1, 0)}, 0)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("requests_total", True),
        ('job:requests:total{code=~"5..",path="/a{b}"}', True),
        ('{__name__="requests_total", job="a"}', True),
        ("requests_total{}", True),
        ("{}", False),
        ("sum(requests_total)", False),
        ("requests_total[5m]", False),
        ("rate(requests_total[5m])", False),
        ("a + b", False),
        ('requests_total{code="5"} offset 5m', False),
        ("1", False),
        ("", False),
    ],
)
def test_a_selector_is_told_from_an_expression(text, is_one):
    assert is_selector(text) is is_one


def test_an_expression_is_evaluated_at_the_end_of_each_minute():
    def ask(path, parameters):
        assert (path, parameters["start"], parameters["end"]) == (
            "query_range",
            str(START + 60),
            str(START + 600),
        )
        bad = "500" in parameters["query"]
        return [{"values": [[START + 60, "1" if bad else "4"], [START + 120, "NaN"]]}]

    sli = {"bad": 'sum(increase(a{code="500"}[1m]))', "total": "sum(increase(a[1m]))"}
    config = config_of(sli)
    polled = poll(ask, config.standalone[0], config.prometheus, FIRST, FIRST + 10, 7)
    assert polled.counts == ((FIRST, 3_000_000, 1_000_000),)


# The poller


class Rig:
    """A pipeline that takes what a poller appends."""

    def __init__(self, series, **settings):
        self.config = config_of(**settings)
        self.pipeline = Pipeline(self.config)
        self.api = Made(series)
        self.records = []
        self.put(Kind.START, Encoding.NONE, b"")
        self.poller = Poller(self.put, lambda: self.pipeline, lambda _: self.api)

    def put(self, kind, encoding, payload):
        offset = self.pipeline.next_offset
        arrival = (START + 3600) * SECOND + offset
        record = Record(offset, arrival, kind, encoding, payload)
        self.records.append(record)
        self.pipeline.ingest(record)

    def at(self, minutes):
        """Polls that many minutes after START, plus the delay."""
        closed = START * SECOND + round(minutes * MINUTE)
        self.poller.catch_up(closed + self.config.prometheus.delay)

    def events(self):
        good, bad = self.pipeline.slos.totals.events[0].tolist()
        return good / 1e6, bad / 1e6

    def covered(self):
        first, end = self.pipeline.polled.covered(0)
        return first - FIRST, end - FIRST


EVERY = {"200": [(15 * n, n) for n in range(400)]}


def test_only_closed_minutes_are_read_and_each_once():
    rig = Rig(EVERY)
    rig.at(1.99)
    assert rig.covered() == (0, 1)
    rig.at(1.999)
    rig.at(2)
    rig.at(2)
    assert rig.covered() == (0, 2)
    assert rig.events() == (8, 0)


def test_minutes_may_be_read_several_at_a_time():
    rig = Rig(EVERY, every="5m")
    rig.at(7)
    assert rig.covered() == (2, 7)
    rig.at(11)
    assert rig.covered() == (2, 7)
    rig.at(12)
    assert rig.covered() == (2, 12)
    assert rig.events() == (40, 0)


def test_after_an_outage_the_gap_is_filled():
    rig = Rig(EVERY)
    rig.at(1)
    rig.api.failures += [SourceError("down")]
    rig.at(20)
    assert rig.covered() == (0, 1)
    rig.at(20.1)
    assert rig.covered() == (0, 1), "it waits before it asks again"
    rig.at(20.5)
    assert rig.covered() == (0, 20)
    assert rig.events() == (80, 0)


def test_what_is_too_much_at_once_is_asked_for_in_pieces():
    rig = Rig(EVERY)
    rig.at(1)
    rig.api.failures += [TooMuch("too many samples")] * 3
    rig.at(90)
    assert rig.covered() == (0, 90)
    assert {end - first for first, end in stretches(rig)} == {1, 45, 15}


class Broken(Made):
    """Does not understand one of the queries."""

    def __call__(self, path, parameters):
        if "broken" in parameters["query"]:
            raise Refused("parse error")
        return super().__call__(path, parameters)


@pytest.fixture
def broken():
    """Two SLOs, the first of which cannot be read."""
    rig = Rig(EVERY)
    slos = [
        {"name": name, "objective": 99, "window": "1h", "sli": {"prometheus": sli}}
        for name, sli in (("broken", {**SLI, "bad": "sum(broken)"}), ("slo", SLI))
    ]
    document = {"prometheus": {"url": "http://prometheus:9090"}, "slos": slos}
    rig.config = Config.model_validate(document, context={"from_file": True})
    rig.pipeline = Pipeline(rig.config)
    rig.put(Kind.START, Encoding.NONE, b"")
    rig.api = Broken({"200": [(15 * n - 7200, n) for n in range(900)]})
    return rig


def test_a_query_that_is_refused_keeps_no_other_slo_waiting(broken, caplog):
    for minute in (1, 2):
        broken.at(minute)
    assert broken.pipeline.polled.covered(0) is None
    assert broken.pipeline.polled.covered(1) == (FIRST, FIRST + 2)
    assert "SLO broken: parse error" in caplog.text


def test_the_history_of_others_is_filled_before_a_refusal_is_said(broken):
    now = START * SECOND + broken.config.prometheus.delay
    with pytest.raises(Refused, match="SLO broken: parse error"):
        list(broken.poller.backfill(now))
    assert broken.pipeline.polled.covered(1) == (FIRST - 60, FIRST)


def stretches(rig):
    for record in rig.records[1:]:
        polled = decode_polled(record.payload)
        yield polled.first, polled.end


def test_history_is_filled_backwards_and_counts_once():
    series = {"200": [(15 * n - 7200, n) for n in range(900)]}
    rig = Rig(series)
    rig.at(1)
    now = START * SECOND + MINUTE + rig.config.prometheus.delay
    assert list(rig.poller.backfill(now)) == [("slo", 0, 59), ("slo", 59, 59)]
    assert list(rig.poller.backfill(now)) == [("slo", 0, 0)]
    assert rig.covered() == (-59, 1)
    assert rig.events() == (240, 0)


def test_a_second_poller_counts_nothing_twice():
    rig = Rig(EVERY)
    rig.at(1)
    for record in rig.records[1:]:
        rig.put(record.kind, record.encoding, record.payload)
    assert rig.events() == (4, 0)
    assert rig.pipeline.polled.duplicates == 1


def test_a_replay_of_the_log_asks_nobody_and_yields_the_same():
    rig = Rig(EVERY)
    for minute in (1, 5, 17):
        rig.at(minute)
    replay = Pipeline(rig.config)
    for record in rig.records:
        replay.ingest(record)
    assert replay.slos.totals.events.tolist() == rig.pipeline.slos.totals.events.tolist()
    assert replay.polled.covered(0) == rig.pipeline.polled.covered(0)


def test_a_restart_goes_on_where_the_checkpoint_ends():
    rig = Rig(EVERY)
    rig.at(3)
    other = Rig(EVERY)
    other.pipeline = Pipeline(rig.config)
    other.pipeline.restore(*rig.pipeline.dump(), rig.pipeline.next_offset)
    other.at(7)
    assert other.covered() == (2, 7)
    assert other.events() == (20, 0)


def test_an_slo_that_reads_something_else_reads_no_minute_again():
    rig = Rig({"200": [(15 * n - 7200, n) for n in range(900)]})
    rig.at(3)
    now = START * SECOND + 3 * MINUTE + rig.config.prometheus.delay
    list(rig.poller.backfill(now))
    old, events, covered = rig.records[-1], rig.events(), rig.covered()
    rig.config = config_of({**SLI, "bad": "errors_total"})
    pipeline = Pipeline(rig.config)
    pipeline.restore(*rig.pipeline.dump(), rig.pipeline.next_offset)
    rig.pipeline = pipeline
    assert pipeline.polled.take(decode_polled(old.payload)).size == 0
    list(rig.poller.backfill(now))
    assert (rig.events(), rig.covered()) == (events, covered)
    rig.at(4)
    assert rig.covered() == (covered[0], 4)


def counted_otherwise():
    """The SLO, counted by a metric."""
    sli = {"metric": {"name": "requests", "bad": {"name": "errors"}}}
    slo = {"name": "slo", "objective": 99, "window": "1h", "sli": sli}
    document = {"prometheus": {"url": "http://prometheus:9090"}, "slos": [slo]}
    return Config.model_validate(document, context={"from_file": True})


@pytest.mark.parametrize("read_before", [False, True])
def test_minutes_that_something_else_counted_are_not_read(read_before):
    rig = Rig({"200": [(15 * n - 7200, n) for n in range(900)]})
    store = MemoryStore()
    before, other = Pipeline(rig.config, store), Pipeline(counted_otherwise(), store)
    before.advance((START - 1200) * SECOND)
    if read_before:
        before.polled.skip(0, FIRST - 30, FIRST - 20)
    other.restore(*before.dump(), 0)
    other.advance((START + 30) * SECOND)
    verdicts = np.zeros(20, VERDICT)  # an event in each of the 20 minutes before START
    verdicts["time"] = (START - 60 * np.arange(1, 21)) * SECOND
    verdicts["weight"] = MILLIONTHS
    other.slos.add(verdicts)
    store.add(other.slos.fresh())
    other.slos.flushed()
    rig.pipeline = Pipeline(rig.config, store)
    rig.pipeline.restore(*other.dump(), 0)
    oldest = -30 if read_before else -20
    assert rig.covered() == (oldest, 1), "the minute of the change was counted, too"
    rig.at(2)
    list(rig.poller.backfill(START * SECOND + 2 * MINUTE + rig.config.prometheus.delay))
    assert rig.covered() == (-58, 2)
    assert rig.events() == (20 + 4 * (1 + 58 + oldest), 0)
    assert rig.pipeline.polled.duplicates == 0


def test_an_slo_that_was_not_counted_at_all_is_read_from_the_beginning():
    rig = Rig(EVERY)
    other = Pipeline(counted_otherwise())
    other.advance(START * SECOND)
    rig.pipeline = Pipeline(rig.config)
    rig.pipeline.restore(*other.dump(), 0)
    assert rig.pipeline.polled.covered(0) is None


def test_a_poll_is_read_back_as_it_was_written():
    rig = Rig(EVERY)
    rig.at(1)
    payload = rig.records[1].payload
    assert encode_polled(decode_polled(payload)) == payload
    with pytest.raises(DecodeError):
        decode_polled(b"{}")


# HTTP


@pytest.fixture
def answering():
    """A server that gives the answers it is given, and keeps what it was asked."""
    answers, asked = deque(), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            asked.append((self.path, self.headers.get("authorization"), body))
            status, text, *headers = answers.popleft()
            self.send_response(status)
            for header in headers:
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self):
            asked.append((self.path, self.headers.get("authorization"), b""))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/prefix/", answers, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_asks_with_a_token_and_reads_the_result(answering, tmp_path):
    url, answers, asked = answering
    (tmp_path / "token").write_text("secret\n")
    api = HttpApi(Prometheus(url=url, bearer_token_file=str(tmp_path / "token")))
    answers.append((200, json.dumps({"data": {"result": [{"metric": {}}]}}).encode()))
    assert api("query", {"query": "up"}) == [{"metric": {}}]
    assert asked == [("/prefix/api/v1/query", "Bearer secret", b"query=up")]


@pytest.mark.parametrize(
    ("status", "text", "error", "said"),
    [
        (422, b'{"error": "query processing would load too many samples"}', TooMuch, "too many"),
        (400, b'{"error": "parse error"}', Refused, "400: parse error"),
        (502, b"<html>", Refused, "502: Bad Gateway"),
        (200, b"<html>", SourceError, "does not answer like a Prometheus"),
        (200, b'{"data": null}', SourceError, "does not answer like a Prometheus"),
        (200, b'{"data": {"result": null}}', SourceError, "does not answer like a Prometheus"),
        (200, b"[" * 100_000, SourceError, "does not answer like a Prometheus"),
        (200, b" " * ((64 << 20) + 1), TooMuch, "more than 64 MiB"),
    ],
)
def test_what_goes_wrong_is_said(answering, status, text, error, said):
    url, answers, _ = answering
    answers.append((status, text))
    with pytest.raises(error, match=said):
        HttpApi(Prometheus(url=url))("query", {"query": "up"})


def test_a_redirection_is_said_and_tells_nobody_else_the_token(answering, tmp_path):
    url, answers, asked = answering
    (tmp_path / "token").write_text("secret\n")
    answers.append((302, b"", ("location", f"{url}elsewhere")))
    api = HttpApi(Prometheus(url=url, bearer_token_file=str(tmp_path / "token")))
    with pytest.raises(Refused, match=r"answers 302: leads to http://.*elsewhere"):
        api("query", {"query": "up"})
    assert len(asked) == 1


def test_an_error_whose_text_does_not_come_is_said(answering, monkeypatch):
    monkeypatch.setattr(prometheus_source, "_TIMEOUT_SECONDS", 0.2)
    url, answers, _ = answering
    answers.append((502, b"2\r\n{", ("transfer-encoding", "chunked")))
    with pytest.raises(Refused, match="502: Bad Gateway"):
        HttpApi(Prometheus(url=url))("query", {"query": "up"})


def test_an_answer_that_never_comes_concerns_one_query(monkeypatch):
    monkeypatch.setattr(prometheus_source, "_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        api = HttpApi(Prometheus(url=f"http://127.0.0.1:{server.getsockname()[1]}"))
        with pytest.raises(Refused, match="does not answer in time: timed out"):
            api("query", {"query": "up"})


def test_an_answer_that_drips_for_ever_is_given_up(answering, monkeypatch):
    monkeypatch.setattr(prometheus_source, "_ANSWER_SECONDS", -1.0)
    url, answers, _ = answering
    answers.append((200, b'{"data": {"result": []}}'))
    with pytest.raises(SourceError, match="did not come within"):
        HttpApi(Prometheus(url=url))("query", {"query": "up"})


@pytest.mark.parametrize(
    "one",
    [
        {},
        {"metric": None},
        {"metric": {}, "values": None},
        {"metric": {}, "value": [1]},
        {"metric": {}, "values": [[START, "x"]]},
        {"metric": {}, "values": [[1e300, "0"], [2e300, "1"]]},
        "text",
    ],
)
def test_an_answer_of_another_form_keeps_no_other_slo_waiting(broken, caplog, one):
    made = broken.api

    def ask(path, parameters):
        return [one] if "broken" in parameters["query"] else Made.__call__(made, path, parameters)

    broken.api = ask
    for minute in (1, 2):
        broken.at(minute)
    assert broken.pipeline.polled.covered(1) == (FIRST, FIRST + 2)


@pytest.mark.parametrize("name", ["requests_total", "sum(increase(requests_total[1m]))"])
def test_what_was_not_asked_for_never_gets_into_the_log(name):
    values = [[START - 10**6, "5"], [START + 60, "1"], [START + 10**6, "9"], [1e300, "7"]]

    def ask(_path, _parameters):
        return [{"metric": {}, "values": values}]

    config = config_of({"bad": f"{name} ", "total": name})
    counts = poll(ask, config.standalone[0], config.prometheus, FIRST, FIRST + 10, 7).counts
    assert [weights for _, *weights in counts] == [[0, 1_000_000]]


def test_more_events_than_the_pipeline_can_count_do_not_stop_it():
    many = [{"metric": {}, "values": [[START + 60, "4e12"]]}] * 5
    rig = Rig(EVERY, sli={"bad": "sum(a)", "total": "sum(b)"})
    rig.api = lambda _path, _parameters: many
    rig.at(2)
    assert rig.covered() == (1, 2)


def test_whatever_happens_it_is_polled_again(caplog):
    rig, polled = Rig(EVERY), Event()

    def ask(_path, _parameters):
        polled.set()
        raise MemoryError

    rig.api = ask
    now = START * SECOND + 3 * MINUTE
    rig.poller.start(lambda: now, lambda: True)
    try:
        assert polled.wait(20)
        deadline = time.monotonic() + 20
        while not (failed := results(rig.poller)["failed"]):
            assert time.monotonic() < deadline
        assert rig.poller._thread.is_alive()
    finally:
        rig.poller.stop(5)
    assert failed == 1
    assert "polling met a defect" in caplog.text


def results(poller):
    (samples,) = poller.snapshot().values()
    return {sample.labels[1]: sample.value for sample in samples}


@pytest.mark.parametrize("content", [b"", b"secret\nsecret", "gehe\u0131m".encode(), b"\xff\xfe"])
def test_a_file_without_a_token_is_said_and_not_repeated(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    settings = Prometheus(url="http://127.0.0.1:1", bearer_token_file=str(tmp_path / "token"))
    with pytest.raises(SourceError, match="token holds no token") as said:
        HttpApi(settings)("query", {"query": "up"})
    assert "secret" not in str(said.value)


def test_nobody_there_is_said():
    with pytest.raises(SourceError, match="cannot be reached"):
        HttpApi(Prometheus(url="http://127.0.0.1:1"))("query", {"query": "up"})
