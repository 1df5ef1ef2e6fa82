"""Why an attempt was bad: what the exporter remembers, and what a person on call reads."""

import json
from io import StringIO

import pytest
from rich.console import Console
from tests.scenario import START, Event, Span, records

from outcome_exporter import evidence, explain
from outcome_exporter.config import Config
from outcome_exporter.errors import ExplainError
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.question import read_question
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
    assert "buy: 2 bad attempts in the last 1 h." in text
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


@pytest.mark.parametrize("trace_id", ["12", "zz" * 16, "0" * 33])
def test_what_is_no_trace_id_is_refused(trace_id):
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        read_question(trace_id, "", "1h")


def test_where_no_exporter_answers_the_remedy_is_told():
    with pytest.raises(ExplainError, match="give its metrics port with --url"):
        explain.explain(Console(file=StringIO()), "http://127.0.0.1:1", {"trace_id": "1"}, None)
