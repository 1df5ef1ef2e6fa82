"""Why an attempt was bad: what the exporter remembers, and what a person on call reads."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO

import pytest
from rich.console import Console
from tests.scenario import START, Event, Span, records
from typer.testing import CliRunner

from outcome_exporter import evidence, explain
from outcome_exporter.cli import app
from outcome_exporter.config import Config
from outcome_exporter.errors import ExplainError
from outcome_exporter.exposition import render
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.question import read_question
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import MILLISECOND, SECOND

USUAL = 30
FAILED, SLOW = 900, 901


def config(explained=10_000):
    return Config.model_validate(
        {
            "trace_url": "https://traces.example.com/{trace_id}",
            "limits": {"explained": explained},
            "causes": {
                "changes": [
                    {
                        "event": "released",
                        "service": "data.app",
                        "version": "data.tag",
                        "previous": "data.from",
                    }
                ]
            },
            "journeys": [
                {
                    "name": "buy",
                    "title": "A customer buys",
                    "attempt": {"span": {"service": "shop"}},
                    "slow_above": "300ms",
                    "slos": [{"name": "ok", "objective": 99, "good": {"error": False}}],
                }
            ],
        }
    )


def attempt(trace, at, *, ms=20, error=False):
    """A shop that calls a bank, which keeps it waiting."""
    status = 2 if error else 0
    end = at + (ms + 10) * MILLISECOND
    return [
        Span(trace, 1, at, end, service="shop", status=status),
        Span(
            trace,
            2,
            at + 5 * MILLISECOND,
            end - 5 * MILLISECOND,
            parent=1,
            service="bank",
            name="POST /charge",
            status=status,
            resource={"service.version": "7", "k8s.pod.name": "bank-b" if error else "bank-a"},
        ),
    ]


def fed(explained=10_000, failures=1, events=()):
    pipeline = Pipeline(config(explained))
    sent = [
        (START + n * 20 * SECOND, attempt(n + 1, START + n * 20 * SECOND)) for n in range(USUAL)
    ]
    at = START + USUAL * 20 * SECOND
    sent += [(at + n * SECOND, attempt(FAILED + 2 * n, at, error=True)) for n in range(failures)]
    sent.append((at + failures * SECOND, attempt(SLOW, at, ms=500)))
    sent += [(event.time, [event]) for event in events]
    for record in records(sorted(sent, key=lambda each: each[0])):
        pipeline.ingest(record)
    pipeline.advance(at + (failures + 30) * SECOND)
    return pipeline


@pytest.fixture(scope="module")
def pipeline():
    return fed()


def asked(pipeline, **question):
    texts = {"trace_id": "", "journey": "", "since": "1h"} | question
    found = evidence.answer(pipeline, read_question(**texts))
    return None if found is None else json.loads(json.dumps(found))


def printed(monkeypatch, found, **question):
    monkeypatch.setattr(explain, "_ask", lambda *_: found)
    out = StringIO()
    explain.explain(Console(file=out, width=120), "http://x", question, None)
    return out.getvalue()


def test_a_failed_attempt_is_told_with_its_path_and_who_failed_first(pipeline, monkeypatch):
    found = asked(pipeline, trace_id=f"{FAILED:032x}")
    [told] = found["attempts"]
    assert told["reason"] == "error"
    assert told["cause"] == {
        "service": "bank", "operation": "POST /charge", "version": "7", "kind": "error"
    }  # fmt: skip
    assert [(s["service"], s["depth"], s["own_ms"]) for s in told["path"]] == [
        ("shop", 0, 10.0),
        ("bank", 1, 20.0),
    ]
    assert sum(span["own_ms"] for span in told["path"]) == told["duration_ms"]
    text = printed(monkeypatch, found, trace_id=f"{FAILED:032x}")
    assert "A customer buys: this attempt failed with an error" in text
    assert "Blamed on bank POST /charge 7: it failed." in text
    assert "Usually 0.00% of its calls fail." in text
    assert "shop POST /pay failed too, because something that it called had failed" in text
    assert f"https://traces.example.com/{FAILED:032x}" in text
    [line] = [line for line in text.splitlines() if "◀ blamed" in line]
    assert line.startswith("  bank POST /charge 7")


def test_a_slow_attempt_is_told_with_what_was_usual(pipeline, monkeypatch):
    found = asked(pipeline, trace_id=f"{SLOW:032x}")
    [told] = found["attempts"]
    assert (told["reason"], told["cause"]["service"]) == ("slow", "bank")
    text = printed(monkeypatch, found, trace_id=f"{SLOW:032x}")
    assert "Blamed on bank POST /charge 7: it was slow." in text
    assert "It took 500 ms itself; usually 20 ms." in text


def test_a_journey_is_summed_up_by_cause(pipeline, monkeypatch):
    found = asked(pipeline, journey="buy")
    assert found["bad"] == 2
    assert {cause["cause"]["kind"]: cause["bad"] for cause in found["causes"]} == {
        "error": 1,
        "latency": 1,
    }
    text = printed(monkeypatch, found, journey="buy", since="1h")
    assert "buy: 2 bad attempts in the last 1\u00a0h." in text
    assert f"explain {FAILED:032x}" in text
    assert asked(pipeline, journey="buy", since="1s")["bad"] == 0


def test_what_bad_attempts_have_in_common_and_what_came_before_is_told(monkeypatch):
    at = START + (USUAL * 20 - 180) * SECOND
    told = {"app": "bank", "tag": "7", "from": "6"}
    deployed = Event("released", "1", at, data=told)
    other = Event("released", "2", at, data=told | {"app": "mail"})
    early = Event("released", "3", START - 9_000 * SECOND, data=told | {"tag": "5"})
    pipeline = fed(failures=14, events=[deployed, other, early])
    found = asked(pipeline, journey="buy")
    (suspect,) = found["suspects"]
    assert (suspect["service"], suspect["dimension"]) == ("bank", "k8s.pod.name")
    (change,) = found["changes"]
    assert (change["service"], change["version"], change["why"]) == ("bank", "7", "followed")
    for text in (
        printed(monkeypatch, found, journey="buy", since="1h"),
        printed(monkeypatch, asked(pipeline, trace_id=f"{FAILED:032x}"), trace_id="x"),
    ):
        assert "k8s.pod.name bank-b of bank: 14 of 15 bad attempts, none of 12 good ones" in text
        assert "bank 7 (deployment) after 6 came 3\u00a0min before it began" in text
        assert "mail" not in text


@pytest.mark.parametrize(
    ("bad", "seconds", "said"),
    [
        (0, 300, "buy: 0 bad attempts in the last 5\u00a0min."),
        (1, 50 * 86_400, "buy: 1 bad attempt in the last 50\u00a0days."),
    ],
)
def test_how_far_a_sum_reaches_back_is_told_as_people_say_it(bad, seconds, said, monkeypatch):
    found = {"journey": "buy", "bad": bad, "since_seconds": seconds, "forgotten_before": None}
    nothing = {"causes": [], "suspects": [], "changes": []}
    assert printed(monkeypatch, found | nothing, journey="buy").startswith(said)


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [(0.2, "0.2 ms"), (999.4, "999 ms"), (999.6, "1.00 s"), (12_345, "12.35 s")],
)
def test_times_are_told_without_powers_of_ten(milliseconds, said):
    assert explain._ms(milliseconds) == said


def test_good_and_unknown_traces_are_not_explained(pipeline):
    assert asked(pipeline, trace_id=f"{1:032x}") is None
    assert asked(pipeline, trace_id=f"{12345:032x}") is None
    assert asked(pipeline, journey="sell") is None


def test_the_oldest_are_forgotten_first_and_that_is_said():
    pipeline = fed(explained=100, failures=150)
    assert asked(pipeline, trace_id=f"{FAILED:032x}") is None
    assert asked(pipeline, trace_id=f"{FAILED + 2 * 149:032x}")["attempts"][0]["path"]
    found = asked(pipeline, journey="buy")
    assert found["bad"] == 100
    assert found["forgotten_before"] is not None


def test_where_it_remembers_less_than_was_asked_for_it_says_from_when_on(pipeline, monkeypatch):
    def told(asker, since):
        found = asked(asker, journey="buy", since=since)
        return printed(monkeypatch, found, journey="buy", since=since)

    def sentence(second):
        return f"Attempts before {explain._moment(second)} are not in this answer: with each start"

    began, now = START // SECOND, pipeline.second
    assert sentence(began) in told(pipeline, "1d")
    assert "not in this answer" not in told(pipeline, f"{now - began}s")
    reloaded = Pipeline(config())
    reloaded.restore(*pipeline.dump(), pipeline.next_offset)
    reloaded.advance((now + 600) * SECOND)
    text = told(reloaded, "1h")
    assert "buy: 0 bad attempts in the last 1\u00a0h." in text
    assert sentence(now) in text
    assert "not in this answer" not in told(reloaded, "10m")


@pytest.mark.parametrize("trace_id", ["12", "zz" * 16, "0" * 33])
def test_what_is_no_trace_id_is_refused(trace_id):
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        read_question(trace_id, "", "1h")


def test_where_no_exporter_answers_the_remedy_is_told():
    with pytest.raises(ExplainError, match="give its metrics port with --url"):
        explain.explain(Console(file=StringIO()), "http://127.0.0.1:1", {"trace_id": "1"}, None)


@pytest.fixture
def answers():
    """Where somebody answers every request with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(answer):
            def once():
                connection, _ = listening.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(answer)

            threading.Thread(target=once, daemon=True).start()
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield serve


def test_a_port_that_speaks_no_http_is_told_with_the_remedy(answers):
    # The first bytes of HTTP/2, as the port for OTLP over gRPC sends them.
    url = answers(b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\x00\x04\x00\x3f\x00\x01")
    with pytest.raises(ExplainError, match="give its metrics port with --url") as refused:
        explain.explain(Console(file=StringIO()), url, {"journey": "buy", "since": "1h"}, None)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("url", ["http://local host:9464", "http://localhost:metrics"])
def test_what_is_no_address_is_told_with_the_remedy(url):
    with pytest.raises(ExplainError, match="give its metrics port with --url"):
        explain.explain(Console(file=StringIO()), url, {"journey": "buy", "since": "1h"}, None)


def test_names_from_outside_do_not_steer_the_terminal(pipeline, answers):
    found = asked(pipeline, journey="buy")
    found["causes"][0]["cause"]["operation"] = "POST \x1b[2J\x1b]0;all is well\x07"
    body = json.dumps(found).encode()
    url = answers(b"HTTP/1.0 200 OK\r\n\r\n" + body)
    out = StringIO()
    explain.explain(Console(file=out, width=120), url, {"journey": "buy", "since": "1h"}, None)
    assert r"POST \x1b[2J\x1b]0;all is well\x07" in out.getvalue()
    assert "\x1b" not in out.getvalue()


MISSED, NOT_WATCHED = 700, 800
ORDERED = 200
"""Far more than are lost: what most attempts reach is missed."""


def ordered(trace, at, *, reached=True):
    """A shop that asks a bank and then a store, which says that the order is complete."""
    far = 30 if reached else 15
    spans = [
        Span(trace, 1, at, at + far * MILLISECOND, service="shop"),
        Span(trace, 2, at, at + 10 * MILLISECOND, parent=1, service="bank", name="charge"),
    ]
    if reached:
        spans.append(
            Span(trace, 3, at + 12 * MILLISECOND, at + 25 * MILLISECOND, 1, "store", "ship")
        )
    return spans


@pytest.fixture(scope="module")
def silent():
    """Orders that came, one that never did, and more of them than are watched."""
    journey = {
        "name": "order",
        "title": "A customer orders",
        "attempt": {"span": {"service": "shop"}},
        "join": ["trace_id"],
        "outcome": {"event": "ordered", "within": "1m"},
        "slos": [{"name": "came", "objective": 99, "good": {"achieved": True}}],
    }
    pipeline = Pipeline(
        Config.model_validate({"limits": {"explained": 100}, "journeys": [journey]})
    )
    sent = []
    for n in range(ORDERED):
        at = START + n * 20 * SECOND
        sent.append((at + SECOND, ordered(n + 1, at)))
        sent.append((at + SECOND, [Event("ordered", f"{n}", at + SECOND, trace=n + 1)]))
    at = START + (ORDERED + 10) * 20 * SECOND
    lost = [MISSED, *range(NOT_WATCHED, NOT_WATCHED + 60)]
    sent += [(at + SECOND, ordered(trace, at, reached=False)) for trace in lost]
    for record in records(sent):
        pipeline.ingest(record)
    pipeline.advance(at + 300 * SECOND)
    return pipeline


def test_an_attempt_that_failed_is_recovered_once_its_event_has_come(monkeypatch):
    journey = {
        "name": "order",
        "attempt": {"span": {"service": "shop"}},
        "outcome": {"event": "ordered", "within": "1m"},
        "slos": [{"name": "fine", "objective": 99, "good": {"achieved": True, "error": False}}],
    }
    pipeline = Pipeline(Config.model_validate({"journeys": [journey]}))
    saved = [Event("ordered", "1", START + 40 * SECOND, trace=FAILED)]
    sent = [
        (START + SECOND, attempt(FAILED, START, error=True)),
        (START + SECOND, attempt(2, START, error=True)),
        (START + 40 * SECOND, saved),
    ]

    def told():
        found = asked(pipeline, trace_id=f"{FAILED:032x}")
        return printed(monkeypatch, found, trace_id=f"{FAILED:032x}")

    for record in records(sent):
        pipeline.advance(record.arrival_unix_nano - 1)
        if record.arrival_unix_nano == START + 40 * SECOND:
            # Nobody knows yet whether anything will make up for it.
            assert "order: this attempt failed with an error." in told()
        pipeline.ingest(record)
    pipeline.advance(START + 300 * SECOND)
    said = render(snapshot(pipeline), openmetrics=False).decode()
    assert 'journey="order",outcome="bad",reason="recovered"} 1.0' in said
    assert "order: this attempt failed with an error, but its event came." in told()
    (cause,) = asked(pipeline, journey="order")["causes"]
    assert cause["reasons"] == {"recovered": 1, "error": 1}
    assert cause["bad"] == 2


def test_a_silent_failure_is_told_with_what_was_there_and_the_step_that_never_came(
    silent, monkeypatch
):
    found = asked(silent, trace_id=f"{MISSED:032x}")
    [told] = found["attempts"]
    assert told["reason"] == "missed"
    assert told["cause"] | {"version": ""} == {
        "service": "store", "operation": "ship", "version": "", "kind": "missing"
    }  # fmt: skip
    assert [(span["service"], span["own_ms"]) for span in told["path"]] == [
        ("shop", 5.0),
        ("bank", 10.0),
    ]
    assert [(step["service"], step["operation"]) for step in told["absent"]] == [("store", "ship")]
    text = printed(monkeypatch, found, trace_id=f"{MISSED:032x}")
    [line] = [line for line in text.splitlines() if "◀ never came" in line]
    assert line.strip().startswith("store ship")
    assert "spans are not kept" not in text


def test_of_silent_failures_beyond_those_that_are_watched_the_steps_are_told(silent, monkeypatch):
    answers = [asked(silent, trace_id=f"{NOT_WATCHED + n:032x}") for n in range(60)]
    told = [found["attempts"][0] for found in answers]
    assert all(attempt["absent"] for attempt in told)
    watched = sum(bool(attempt["path"]) for attempt in told)
    assert 0 < watched < 25
    unwatched = next(found for found in answers if not found["attempts"][0]["path"])
    text = printed(monkeypatch, unwatched, trace_id=unwatched["trace_id"])
    assert "It never reached store ship." in text
    assert "spans are not kept" in text


@pytest.fixture
def guarded():
    """A port that wants a token, and knows one journey."""

    class Port(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers["Authorization"] == "Bearer s3cret"
            answer = {"journey": "buy", "since_seconds": 3600, "bad": 0, "forgotten_before": None}
            answer |= {"causes": [], "suspects": [], "changes": []}
            body = json.dumps(answer).encode() if known else b"who are you?"
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(*arguments):
    return CliRunner().invoke(app, ["explain", "--journey", "buy", *map(str, arguments)])


def test_a_port_that_wants_a_token_is_told_with_the_option_that_gives_it(guarded, tmp_path):
    refused = run("--url", guarded)
    assert isinstance(refused.exception, ExplainError)
    assert "it wants a token; give --token-file FILE" in str(refused.exception)
    wrong = tmp_path / "wrong"
    wrong.write_text("guess")
    assert isinstance(run("--url", guarded, "--token-file", wrong).exception, ExplainError)


def test_the_token_of_a_file_opens_the_port(guarded, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    answer = run("--url", guarded, "--token-file", token)
    assert answer.exit_code == 0, answer.exception
    assert "buy: 0 bad attempts" in answer.output


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_token_file_that_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    answer = run("--token-file", file)
    assert isinstance(answer.exception, ExplainError)
    assert f"--token-file {file}" in str(answer.exception)
