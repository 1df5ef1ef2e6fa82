"""`outcome-exporter replay`: small files, made here, judged again."""

import io
import random
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import zstandard
from rich.console import Console
from tests.scenario import START, Event, Span, record, trace_request
from tests.scenario import config as config_of

from outcome_exporter import otlp_file
from outcome_exporter import replay as module
from outcome_exporter.checkpoint import StateStore
from outcome_exporter.config import Config, load
from outcome_exporter.errors import DecodeError, LogCorrupt
from outcome_exporter.exposition import render
from outcome_exporter.log import DurableLog
from outcome_exporter.model import BUCKET, Encoding, Kind, Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.replay import RecentBuckets, Replay, replay
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import DAY, HOUR, MINUTE, SECOND

CONFIG = """
journeys:
  - name: checkout
    attempt: {span: {service: frontend, name: POST /pay}}
    value: {attribute: total, currency: USD}
    slos:
      - {name: checkout-works, objective: 99, window: 28d, good: {error: false}}
  - name: orders
    attempt: {span: {service: frontend, name: POST /order}}
    outcome: {event: ordered, within: 10m}
    slos:
      - {name: orders-come, objective: 99, window: 28d, good: {achieved: true}}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def framed(messages) -> bytes:
    return b"".join(struct.pack(">I", len(message)) + message for message in messages)


def span(number: int, second: float, *, status: int = 0, name: str = "POST /pay") -> Span:
    end = START + round(second * SECOND)
    attributes = {"total": 2.5}
    return Span(number, 1, end - SECOND, end, name=name, status=status, attributes=attributes)


def outage() -> list[bytes]:
    """Ten hours of a span a second, of which the fifth hour fails by half."""
    return [
        trace_request(
            span(n, n, status=2 if 4 <= n // 3600 < 5 and n % 2 else 0)
            for n in range(minute * 60 + 1, minute * 60 + 61)
        )
        for minute in range(600)
    ]


def run(config, path) -> tuple[Replay, str]:
    out = Console(file=io.StringIO(), force_terminal=False)
    return replay(config, path, out, time.perf_counter, bytes(16)), out.file.getvalue()


def buckets_of(*minutes: int) -> np.ndarray:
    """A bucket of each minute, which says which one it is."""
    rows = np.zeros(len(minutes), BUCKET)
    rows["minute"] = rows["good"] = minutes
    return rows


def test_buckets_are_held_for_as_long_as_a_window_needs_them():
    held = RecentBuckets(10)
    rows = buckets_of(103, 101, 103, 95)
    held.add(rows, 103)
    rows["good"] = 0  # they are the caller's, who goes on to use them
    held.add(buckets_of(), 105)
    assert held.read_minutes(90, 110)["good"].tolist() == [95, 101, 103, 103]
    held.add(buckets_of(99), 106)
    assert held.read_minutes(90, 110)["good"].tolist() == [101, 103, 103, 99]
    assert held.read_minute(103)["good"].tolist() == [103, 103]
    assert held.read_minute(95).size == 0
    held.add(buckets_of(), 112)
    assert held.read_minutes(90, 110)["good"].tolist() == [103, 103]
    assert held.latest == 103


def test_adding_buckets_costs_no_more_however_many_are_held():
    def seconds(minutes: int) -> float:
        held = RecentBuckets(minutes)
        held.add(buckets_of(*range(minutes)), minutes)
        took = []
        for minute in range(minutes, minutes + 50):
            rows = buckets_of(minute)
            began = time.thread_time()
            held.add(rows, minute)
            took.append(time.thread_time() - began)
        return min(took)

    assert seconds(40_000) < 5 * seconds(40)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "traces.otlp.zst"
    path.write_bytes(zstandard.compress(framed(outage())))
    return path


def test_an_otlp_file_is_judged_with_its_own_time_as_the_clock(config, recorded):
    done, text = run(config, recorded)
    assert done.spans == 36_000
    good, bad = done.pipeline.slos.totals.events[0].tolist()
    assert (good, bad) == (34_200_000_000, 1_800_000_000)
    assert "34,200" in text
    assert "1,800" in text
    assert "95.0000%" in text
    assert "-400.0%" in text  # five times the budget
    assert "85,500.00 USD" in text
    assert "36,000 spans in 600 records" in text
    assert "From 2026-09-21 14:15:00 to" in text


def test_alerts_fire_while_their_windows_burn_and_at_no_other_time(config, recorded):
    done, text = run(config, recorded)
    first = {}
    for alert in done.alerts:
        first.setdefault((alert.tier.severity, alert.tier.long_window), alert)
    begin = START // MINUTE + 4 * 60
    page = first["page", HOUR]
    # Half of the requests burn 50 times too fast: 13.44 in the hour after a quarter of it.
    assert begin + 15 < page.since <= begin + 18
    assert begin + 60 <= page.until <= begin + 65  # five minutes later the short window is clean
    assert first["page", 6 * HOUR].since > page.since
    assert ("ticket", DAY) in first
    assert "page" in text
    assert all(alert.slo == "checkout-works" for alert in done.alerts)


def test_a_quiet_recording_raises_no_alert(config, tmp_path):
    path = tmp_path / "traces.otlp"
    path.write_bytes(framed([trace_request([span(n, n)]) for n in range(1, 300)]))
    done, text = run(config, path)
    assert done.alerts == []
    assert "none" in text


def test_a_gap_of_years_and_a_clock_that_runs_a_century_ahead_cost_nothing(config, tmp_path):
    ahead = Span(99, 1, START + 36_500 * DAY, START + 36_500 * DAY + SECOND, name="POST /pay")
    path = tmp_path / "traces.otlp"
    requests = [
        [span(1, 1), ahead, span(2, 2)],
        [span(3, 3)],
        [span(4, 3 * 365 * 86_400)],
    ]
    path.write_bytes(framed(map(trace_request, requests)))
    done, _ = run(config, path)
    assert done.last == START + 3 * 365 * DAY
    assert done.pipeline.slos.totals.events[0].sum() == 5_000_000


@pytest.mark.parametrize("end", [(1 << 63) - 1, (1 << 64) - 1])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_request_of_times_that_were_never_set_moves_no_clock(config, tmp_path, end, place):
    path = tmp_path / "traces.otlp"
    requests = [trace_request([span(n, 60 * n, status=2 * (n % 2))]) for n in (1, 2)]
    requests.insert(place, trace_request([Span(9, 1, end - SECOND, end, name="POST /search")]))
    path.write_bytes(framed(requests))
    done, _ = run(config, path)
    assert done.last <= START + 120 * SECOND + 1
    assert done.pipeline.slos.window(0, 28 * DAY) == (1, 1)


def test_a_kept_log_is_judged_with_its_arrivals(config, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    clock = iter(range(START, START + 10**9))
    log = DurableLog(folder, max_bytes=1 << 30, keep_nanoseconds=HOUR, now=lambda: next(clock))
    order = Span(1, 1, START - SECOND, START, name="POST /order")
    lost = Span(2, 1, START - SECOND, START, name="POST /order")
    log.append(Kind.START, Encoding.NONE, b"")
    log.append(Kind.TRACES, Encoding.NONE, trace_request([order, lost]))
    events = record(0, START, [Event("ordered", "e", START, trace=1)]).payload
    log.append(Kind.CLOUDEVENTS, Encoding.NONE, events)
    log.close()
    done, text = run(config, folder / "log.db")
    assert done.records == 3
    assert done.pipeline.slos.totals.events[1].tolist() == [1_000_000, 1_000_000]
    assert not done.pipeline.outcomes.pending.any()
    assert "50.0000%" in text


def test_the_time_that_the_exporter_was_away_is_judged_as_it_was(config, tmp_path):
    """Attempts that waited meanwhile had the time of grace to be achieved in."""
    folder = tmp_path / "data"
    folder.mkdir()
    now = [START]
    log = DurableLog(folder, max_bytes=1 << 30, keep_nanoseconds=DAY, now=lambda: now[0])
    live = Pipeline(load(config))

    def take(kind: Kind, payload: bytes, minute: float) -> None:
        now[0] = START + round(minute * MINUTE)
        live.ingest(log.append(kind, Encoding.NONE, payload))

    ordered = record(0, START, [Event("ordered", "e", START + MINUTE, trace=1)]).payload
    order = Span(1, 1, START - SECOND, START, name="POST /order")
    take(Kind.START, b"", 0)
    take(Kind.TRACES, trace_request([order]), 0)
    # Away for an hour, at the end of which the sender delivers what it kept.
    take(Kind.START, b"", 60)
    take(Kind.CLOUDEVENTS, ordered, 60.5)
    log.close()
    again, _ = run(config, folder / "log.db")
    assert live.slos.totals.events[1].tolist() == [1_000_000, 0]
    assert again.pipeline.slos.totals.events.tolist() == live.slos.totals.events.tolist()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda whole: whole[:-1], "cut short at byte"),
        (lambda whole: whole + b"\0\0", "cut short at byte"),
        (lambda whole: b"\xff" + whole, "no length-delimited OTLP file"),
        (lambda whole: whole + b"\0\0\0\1\xff", "at byte"),
        (lambda whole: zstandard.compress(whole)[:40], "cut short|damaged"),
        (lambda whole: zstandard.compress(whole)[:-1], "cut short|damaged"),
    ],
)
def test_a_file_that_is_damaged_is_named_with_the_place(config, tmp_path, damage, problem):
    path = tmp_path / "traces.otlp"
    path.write_bytes(damage(framed([trace_request([span(n, n)]) for n in range(1, 9)])))
    with pytest.raises(DecodeError, match=problem):
        run(config, path)


def test_other_databases_and_missing_files_are_refused(config, tmp_path):
    with pytest.raises(DecodeError, match=r"No such file.*log\.db"):
        run(config, tmp_path / "nothing")
    other = tmp_path / "other.db"
    other.write_bytes(b"SQLite format 3\0" + bytes(4096))
    with pytest.raises(LogCorrupt):
        run(config, other)


def test_an_empty_file_has_nothing_to_say(config, tmp_path):
    path = tmp_path / "traces.otlp"
    path.write_bytes(b"")
    assert run(config, path)[1] == "Nothing was recorded.\n"


def test_who_waits_at_a_terminal_is_told_that_a_first_run_compiles(config, tmp_path, monkeypatch):
    path = tmp_path / "traces.otlp"
    path.write_bytes(b"")
    out = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})

    def compile_slowly(_config):
        deadline = time.monotonic() + 10
        while "it compiles" not in out.file.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    monkeypatch.setattr(module, "warm_up", compile_slowly)
    replay(config, path, out, time.perf_counter, bytes(16))


@pytest.mark.parametrize("pack", [bytes, zstandard.compress])
def test_requests_that_the_collector_compressed_one_by_one_are_read(tmp_path, pack):
    path = tmp_path / "traces.otlp"
    requests = [trace_request([span(n, n)]) for n in range(1, 9)]
    path.write_bytes(pack(framed(map(zstandard.compress, requests))))
    assert list(otlp_file.read(path)) == requests


def test_a_request_that_is_damaged_or_too_large_in_its_compression_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(otlp_file, "MESSAGE_BYTES_MAX", 1 << 10)
    path = tmp_path / "traces.otlp"
    for packed, problem in (
        (zstandard.compress(bytes(100))[:-2], "zstd body.* at byte 6"),
        (zstandard.compress(bytes(2 << 10)), "larger than 1024 bytes.* at byte 6"),
    ):
        path.write_bytes(framed([b"{}", packed]))
        with pytest.raises(DecodeError, match=problem):
            list(otlp_file.read(path))


def test_another_database_than_a_log_is_not_called_a_damaged_one(config, tmp_path):
    StateStore(tmp_path).close()
    out = Console(file=io.StringIO())
    with pytest.raises(DecodeError, match=r"state\.db: another database than a log"):
        replay(config, tmp_path / "state.db", out, time.perf_counter, bytes(16))


def test_messages_are_read_one_at_a_time(tmp_path):
    path = tmp_path / "large.otlp.zst"
    message = bytes(1 << 20)
    path.write_bytes(zstandard.compress(framed([message] * 64)))
    held = [len(each) for each in otlp_file.read(path)]
    assert held == [1 << 20] * 64


def test_the_command_prints_the_report(config, tmp_path):
    path = tmp_path / "traces.otlp"
    path.write_bytes(framed([trace_request([span(n, n, status=2)]) for n in range(1, 9)]))
    command = [sys.executable, "-m", "outcome_exporter", "replay", "-c", config, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert "checkout-works" in done.stdout
    assert "spans/s, peak memory" in done.stdout
    assert "\x1b" not in done.stdout


# Minutes in which nothing can change -------------------------------------------------------------


class EveryMinute(Replay):
    """Looks at every tier in every minute, whatever happens in it."""

    _is_calm = property(lambda _: False, lambda _, __: None)


def tier(long_window: str, short_window: str, budget: float) -> dict:
    windows = {"long_window": long_window, "short_window": short_window}
    return {"severity": "page", **windows, "budget": budget}


def replayed(configuration, records, kind=Replay) -> Replay:
    done = kind.of(configuration)
    for each in records:
        done.ingest(each)
    done.finish()
    return done


def lives(rng: random.Random) -> list[Record]:
    """Spans, events that come, come too late or happen ahead of their time, and pauses."""
    now, records = START, []
    for n in range(1, 60):
        now += rng.choice([5, 20, 45, 200, 700, 700, 4_000, 30_000]) * SECOND
        end = now - rng.randrange(60) * SECOND
        attempts = [
            Span(10 * n + i, 1, end - SECOND, end, name=name, status=2 * (rng.random() < 0.3))
            for i, name in enumerate(rng.choices(["POST /pay", "POST /order"], k=rng.randint(1, 6)))
        ]
        records.append(record(len(records), now, attempts))
        if rng.random() < 0.5:
            at = now + rng.randrange(-300, 540) * SECOND
            trace = 10 * rng.randint(1, n)
            event = Event("ordered", str(n), at, trace=trace + rng.randrange(3))
            records.append(record(len(records), now, [event]))
        if rng.random() < 0.1:
            now += rng.choice([30, 9_000]) * SECOND
            records.append(Record(len(records), now, Kind.START, Encoding.NONE, b""))
    return records


@pytest.mark.parametrize("seed", range(3))
def test_minutes_that_are_passed_over_would_have_changed_nothing(seed):
    tiers = [tier("1h", "5m", 2), tier("6h", "3h", 5)]
    usual = {"objective": 90, "window": "2d", "alerts": {"tiers": tiers, "min_events": 0}}
    usual["alerts"]["min_bad_events"] = 1
    slices = {"method": "timeslices", "slice": "30m", "target": 80}
    works = {"good": {"error": False}, **usual}
    slos = [
        {"name": "works", **works},
        {"name": "slices", **works, "budgeting": slices},
        {"name": "ratios", **works, "budgeting": {"method": "ratio_timeslices", "slice": "5m"}},
    ]
    come = {"name": "come", "good": {"achieved": True}, **usual}
    both = [{"slo": "works", "weight": 3}, {"slo": "come", "weight": 1}]
    configuration = config_of(
        {"name": "checkout", "attempt": {"span": {"name": "POST /pay"}}, "slos": slos},
        {
            "name": "orders",
            "attempt": {"span": {"name": "POST /order"}},
            "outcome": {"event": "ordered", "within": "5h"},
            "slos": [come],
        },
        slos=[{"name": "both", "sli": {"composite": both}, **usual}],
        corrections=[
            {
                "slos": ["works"],
                "start": "2026-09-21T20:00:00Z",
                "end": "2026-09-22T03:10:00Z",
                "reason": "moved house",
            }
        ],
    )
    records = lives(random.Random(seed))
    fast, slow = (replayed(configuration, records, kind) for kind in (Replay, EveryMinute))
    assert fast.alerts == slow.alerts
    assert {alert.slo for alert in fast.alerts} == {"works", "slices", "ratios", "come", "both"}
    shown, expected = (render(snapshot(r.pipeline), openmetrics=True) for r in (fast, slow))
    assert shown == expected


def test_the_days_that_an_attempt_waits_are_passed_over(waiting_for_days, monkeypatch):
    looked_at = []
    evaluate = Replay._evaluate
    monkeypatch.setattr(
        Replay, "_evaluate", lambda self, minute: looked_at.append(minute) or evaluate(self, minute)
    )
    spans = [record(n, START + n * MINUTE, [span(n, n * 60)]) for n in range(1, 11)]
    done = replayed(waiting_for_days, spans)
    assert done.pipeline.slos.totals.events.tolist() == [[0, 10_000_000]]
    assert len(done.alerts) == 1
    # Two days are 2,880 minutes. Only when nobody waits any more is there a verdict.
    assert len(looked_at) < 30
    assert min(looked_at) >= START // MINUTE + 2 * 1_440


@pytest.fixture
def waiting_for_days():
    journey = {
        "name": "signups",
        "attempt": {"span": {"name": "POST /pay"}},
        "outcome": {"event": "made", "within": "2d"},
        "slos": [
            {
                "name": "come",
                "objective": 99,
                "window": "28d",
                "good": {"achieved": True},
                "budgeting": {"method": "timeslices", "slice": "1m", "target": 95},
                "alerts": {"min_events": 0, "min_bad_events": 1, "tiers": [tier("1h", "5m", 2)]},
            }
        ],
    }
    return config_of(journey)


def failing(*tiers: dict) -> Config:
    works = {
        "name": "works",
        "objective": 99,
        "window": "28d",
        "good": {"error": False},
        "alerts": {"min_events": 0, "min_bad_events": 1, "tiers": tiers},
    }
    return config_of({"name": "pay", "attempt": {"span": {"name": "POST /pay"}}, "slos": [works]})


def test_an_error_that_happens_ahead_of_its_time_raises_the_alert_when_it_comes():
    failure = record(0, START, [span(1, 8 * 60, status=2)])
    (alert,) = replayed(failing(tier("1h", "5m", 2)), [failure]).alerts
    assert [alert.since - START // MINUTE, alert.until - START // MINUTE] == [8, 12]


def test_an_alert_lasts_as_long_as_its_short_window_burns_also_in_a_gap_of_weeks():
    weeks = 20 * DAY // SECOND
    failures = [span(1, 1, status=2), span(2, weeks, status=2)]
    records = [record(n, failure.end, [failure]) for n, failure in enumerate(failures)]
    first, second = replayed(failing(tier("12d", "4d", 50)), records).alerts
    assert first.until - START // MINUTE == 4 * DAY // MINUTE - 1
    assert second.since >= START // MINUTE + weeks // 60
