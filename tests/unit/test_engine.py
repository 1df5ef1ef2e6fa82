"""The engine: what it takes over, what it shows, and what it does when something fails."""

import time
from contextlib import contextmanager

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from outcome_exporter import series
from outcome_exporter.checkpoint import StateStore
from outcome_exporter.config import Config
from outcome_exporter.engine import Engine
from outcome_exporter.errors import LogCorrupt, Overloaded, StateCorrupt, StorageError
from outcome_exporter.log import DurableLog, LogReader
from outcome_exporter.model import Encoding, Kind
from outcome_exporter.server import Reloading, WatchedFile
from outcome_exporter.warmup import warm_up

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
START = 1_750_000_000 * SECOND
DEADLINE_SECONDS = 40


def journey(name, *, slos=None, outcome=True, within="10m"):
    return {
        "name": name,
        "attempt": {"span": {"name": name}},
        **({"outcome": {"event": f"{name}-done", "within": within}} if outcome else {}),
        "slos": [
            {"name": slo, "objective": 99, "good": {"error": False}}
            for slo in (slos or [f"{name}-success"])
        ],
    }


def config(*journeys, **parts):
    return Config.model_validate(
        {
            "journeys": journeys,
            "traces": {"quiet": "1s", "max_age": "20s"},
            "storage": {"checkpoint": "1000d"},
            **parts,
        }
    )


@pytest.fixture(autouse=True, scope="module")
def _compiled():
    """So that no test waits for the compiler."""
    warm_up(config())


class Clock:
    """Nanoseconds that a test sets."""

    def __init__(self, now=START):
        self.now = now

    def __call__(self):
        return self.now


@contextmanager
def running(folder, configuration, clock, *, started=True, max_bytes=1 << 30, keep=0):
    """An engine on a folder; leaves it as a kill -9 would unless `stop` was called."""
    log = DurableLog(folder, max_bytes=max_bytes, keep_nanoseconds=keep, now=clock)
    try:
        store = StateStore(folder)
        try:
            engine = Engine(configuration, log, store, clock)
            try:
                if started:
                    engine.start()
                yield engine
            finally:
                engine._checkpoint = lambda **_: None  # what a killed process does not do
                engine.stop()
        finally:
            store.close()
    finally:
        log.close()


def until(condition):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def caught_up(engine):
    until(lambda: engine.failure or engine.pipeline.next_offset == engine._log.next_offset)
    assert engine.failure is None


def pass_time(engine, clock, seconds):
    """Lets the clock run on by itself, without a record of a sender."""
    clock.now += seconds * SECOND
    until(lambda: engine.pipeline.second == clock.now // SECOND)
    caught_up(engine)


def checkpoint(engine):
    """One now, through the thread that does it."""
    engine._now.now += 1
    before = engine._checkpoint_nano, engine._checkpoint_failures
    engine._tried_nano = 1 << 62  # as if the clock had leapt back
    until(lambda: (engine._checkpoint_nano, engine._checkpoint_failures) != before)


_trace = iter(range(1, 1 << 62))


def send(engine, name, clock, *, error=False, count=1, parent=b"", **attributes):
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for _ in range(count):
        span = spans.add(
            trace_id=next(_trace).to_bytes(16),
            span_id=b"\1" * 8,
            parent_span_id=parent,
            name=name,
            kind=Span.SPAN_KIND_SERVER,
            start_time_unix_nano=clock.now - SECOND,
            end_time_unix_nano=clock.now,
        )
        for key, value in attributes.items():
            span.attributes.add(key=key).value.string_value = value
        if error:
            span.status.code = Status.STATUS_CODE_ERROR
    engine._log.append(Kind.TRACES, Encoding.NONE, request.SerializeToString())
    caught_up(engine)


def shown(engine, family):
    return {sample.labels: sample.value for sample in engine.snapshot().get(family, ())}


def attempts(engine):
    return {
        (name, reason): value
        for (name, _, reason), value in shown(engine, series.ATTEMPTS).items()
        if value
    }


def slo_events(engine):
    return {labels: value for labels, value in shown(engine, series.SLO_EVENTS).items() if value}


def counters(engine):
    return {
        (family.name, sample.labels): sample.value
        for family, samples in engine.snapshot().items()
        if family.type == "counter" and not family.name.startswith("outcome_exporter_")
        for sample in samples
    }


# Going on


@pytest.mark.parametrize("with_checkpoint", [False, True])
def test_it_goes_on_where_it_was_killed(tmp_path, with_checkpoint):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock, count=3)
        pass_time(engine, clock, 5)
        if with_checkpoint:
            checkpoint(engine)
        send(engine, "a", clock, error=True)
        pass_time(engine, clock, 5)
        assert attempts(engine) == {("a", "ok"): 3, ("a", "error"): 1}
        before = counters(engine)
    with running(tmp_path, same, clock) as engine:
        until(lambda: engine.not_ready() is None)
        assert counters(engine) == before
        send(engine, "a", clock)
        pass_time(engine, clock, 5)
        assert attempts(engine) == {("a", "ok"): 4, ("a", "error"): 1}


def test_what_was_settled_while_nothing_came_is_not_taken_back_by_a_restart(tmp_path):
    """Without a record of the clock a grace after the restart would turn `missed` to waiting."""
    clock, same = Clock(), config(journey("a", within="5s"))
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock, count=2)
        checkpoint(engine)
        pass_time(engine, clock, 40)
        assert attempts(engine) == {("a", "missed"): 2}
        before = counters(engine)
    clock.now += SECOND
    with running(tmp_path, same, clock) as engine:
        until(lambda: engine.not_ready() is None)
        assert counters(engine) == before


def test_the_clock_is_logged_only_where_something_may_be_due(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock) as engine:
        pass_time(engine, clock, 3)
        assert engine._log.next_offset == 1  # START
        send(engine, "a", clock)
        for _ in range(10):
            pass_time(engine, clock, 1)
        assert 3 <= engine._log.next_offset <= 5


def test_a_scrape_during_the_replay_shows_nothing_that_went_back(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock, count=3)
        pass_time(engine, clock, 5)
        assert attempts(engine) == {("a", "ok"): 3}
    with running(tmp_path, same, clock, started=False) as engine:
        assert engine.not_ready() == "starting"
        assert series.ATTEMPTS not in engine.snapshot()
        engine._ready_offset, engine._thread = 99, type("", (), {"join": lambda _: None})()
        assert engine.not_ready().startswith("replaying the log: 9")
        assert not counters(engine)


def test_after_downtime_what_waits_gets_grace(tmp_path):
    clock = Clock()
    same = config(journey("a", within="5s"), time={"grace": "60s", "lateness": "0"})
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock)
        pass_time(engine, clock, 2)
        assert attempts(engine) == {}
    clock.now += 3_600 * SECOND  # away for an hour
    with running(tmp_path, same, clock) as engine:
        until(lambda: engine.not_ready() is None)
        pass_time(engine, clock, 30)
        assert attempts(engine) == {}
        pass_time(engine, clock, 60)
        assert attempts(engine) == {("a", "missed"): 1}


def test_a_trace_without_its_root_settles_at_its_age_also_after_a_restart(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock, parent=b"\2" * 8)
        for _ in range(5):
            pass_time(engine, clock, 1)
        checkpoint(engine)
    # Without a START record's forgiveness: its timer must not lie in the past.
    with running(tmp_path, same, clock, started=False) as engine:
        engine.pipeline.advance(clock.now + 10 * SECOND)
        assert engine.pipeline.outcomes.combinations["counts"].sum() == 0
        engine.pipeline.advance(clock.now + 20 * SECOND)
        assert engine.pipeline.outcomes.combinations["counts"].sum() > 0


def test_a_clock_that_leaps_back_stops_neither_counting_nor_checkpoints(tmp_path):
    clock = Clock()
    same = config(journey("a", outcome=False), storage={"checkpoint": "10s"})
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock)
        until(lambda: engine._checkpoint_nano == clock.now)
        clock.now -= 3_600 * SECOND
        send(engine, "a", clock)
        until(lambda: engine._checkpoint_nano == clock.now)
        assert engine.failure is None


# Another configuration


def test_what_stays_in_the_configuration_keeps_its_history(tmp_path):
    clock = Clock()
    before = config(
        journey("a", slos=["a1", "a2"], outcome=False),
        journey("gone", outcome=False),
        journey("b", outcome=False),
    )
    after = config(
        journey("b", outcome=False),
        journey("new", outcome=False),
        journey("a", slos=["a3", "a2"], outcome=False),
    )
    with running(tmp_path, before, clock) as engine:
        send(engine, "a", clock, count=3)
        send(engine, "gone", clock, count=5)
        send(engine, "b", clock, count=7)
        pass_time(engine, clock, 5)
        checkpoint(engine)
        windows = shown(engine, series.SLO_WINDOW_EVENTS)
    with running(tmp_path, after, clock) as engine:
        until(lambda: engine.not_ready() is None)
        assert attempts(engine) == {("a", "ok"): 3, ("b", "ok"): 7}
        assert slo_events(engine) == {("a2", "good"): 3, ("b-success", "good"): 7}
        now = shown(engine, series.SLO_WINDOW_EVENTS)
        for labels, value in now.items():
            if labels[0] in ("a2", "b-success"):
                assert value == windows[labels]
            else:
                assert value == 0
        send(engine, "a", clock, error=True)
        send(engine, "new", clock)
        pass_time(engine, clock, 5)
        assert slo_events(engine) == {
            ("a2", "good"): 3,
            ("a2", "bad"): 1,
            ("a3", "bad"): 1,
            ("b-success", "good"): 7,
            ("new-success", "good"): 1,
        }
        # What left the windows by itself is taken out of the right ones.
        pass_time(engine, clock, 6 * 60)
        five = {k: v for k, v in shown(engine, series.SLO_WINDOW_EVENTS).items() if k[1] == "5m"}
        assert set(five.values()) == {0}
    with running(tmp_path, before, clock) as engine:
        until(lambda: engine.not_ready() is None)
        assert slo_events(engine)[("a2", "good")] == 3


def test_a_reload_goes_on_with_what_waits_and_loses_nothing(tmp_path):
    clock = Clock()
    before = config(journey("a"), journey("b", outcome=False))
    after = config(journey("b", outcome=False, slos=["b2", "b-success"]), journey("a"))
    with running(tmp_path, before, clock) as engine:
        send(engine, "b", clock, count=4)
        send(engine, "a", clock, error=True)
        pass_time(engine, clock, 3)
        events = slo_events(engine)
        engine.reload(after)
        assert engine.pipeline.config is after
        assert slo_events(engine) == events == {("a-success", "bad"): 1, ("b-success", "good"): 4}
        assert shown(engine, series.PENDING_ATTEMPTS) == {("a",): 1, ("b",): 0}
        assert shown(engine, series.CONFIG_RELOAD_OK) == {(): 1}
        send(engine, "b", clock)
        pass_time(engine, clock, 3)
        assert slo_events(engine)[("b-success", "good")] == 5
        assert slo_events(engine)[("b2", "good")] == 1
        events = counters(engine)
    with running(tmp_path, after, clock) as engine:
        until(lambda: engine.not_ready() is None)
        assert counters(engine) == events


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_labels_in_another_order_go_on_where_they_were(tmp_path, how):
    """Also those of attempts that wait: for their event, or for their trace to be quiet."""
    clock = Clock()

    def labelled(name, *labels):
        return {**journey(name, within="60s"), "labels": {label: label for label in labels}}

    before = config(labelled("a", "tier", "region", "shop"), labelled("b", "x"))
    after = config(labelled("b", "x"), labelled("a", "shop", "tier", "region"))

    def counts(engine):
        return {
            (found["tier"], found["region"], found["shop"], sample.labels[2]): sample.value
            for sample in engine.snapshot()[series.ATTEMPTS]
            for found in [dict(zip(sample.extra, sample.labels[3:], strict=True))]
            if sample.labels[0] == "a" and sample.value
        }

    with running(tmp_path, before, clock) as engine:
        send(engine, "a", clock, error=True, count=3, tier="gold", region="eu")
        send(engine, "a", clock, error=True, tier="iron", region="us", shop="s")
        pass_time(engine, clock, 120)
        settled = {("gold", "eu", "", "error"): 3, ("iron", "us", "s", "error"): 1}
        assert counts(engine) == settled
        send(engine, "a", clock, error=True, tier="gold", region="eu")
        pass_time(engine, clock, 5)
        send(engine, "a", clock, error=True, tier="iron", region="us", shop="s")
        if how == "reload":
            engine.reload(after)
            assert counts(engine) == settled
        else:
            checkpoint(engine)
    with running(tmp_path, after, clock) as engine:
        until(lambda: engine.not_ready() is None)
        assert counts(engine) == settled
        send(engine, "a", clock, error=True, tier="gold", region="eu")
        send(engine, "a", clock, error=True, tier="eu", region="gold")
        pass_time(engine, clock, 300)
        assert counts(engine) == {
            ("gold", "eu", "", "error"): 5,
            ("iron", "us", "s", "error"): 2,
            ("eu", "gold", "", "error"): 1,
        }


@pytest.mark.parametrize("how", ["reload", "restart", "restart without a checkpoint"])
def test_a_longer_birth_takes_back_no_series_that_was_shown(tmp_path, how):
    """Their counters would fall to 0, which Prometheus takes for a reset."""
    clock = Clock()
    short, long = (
        config(journey("a", outcome=False), journey("b", outcome=False), exposition={"birth": b})
        for b in ("10s", "1h")
    )

    def failures(engine):
        calls = shown(engine, series.SPAN_CALLS).items()
        causes = shown(engine, series.BLAME).items()
        return (
            {labels[1]: value for labels, value in calls if labels[3] == "STATUS_CODE_ERROR"},
            {labels[2]: value for labels, value in causes if labels[2]},
        )

    with running(tmp_path, short, clock) as engine:
        pass_time(engine, clock, 1)
        checkpoint(engine)
        send(engine, "a", clock, error=True, count=3)
        pass_time(engine, clock, 12)
        send(engine, "b", clock, error=True, count=2)
        pass_time(engine, clock, 3)
        seen = {"a": 3, "b": 0}
        assert failures(engine) == (seen, seen)
        if how == "reload":
            engine.reload(long)
            assert failures(engine) == (seen, seen)
            engine.reload(long)
            assert failures(engine) == (seen, seen)
        elif how == "restart":
            checkpoint(engine)
    for _ in range(2):
        with running(tmp_path, long, clock) as engine:
            until(lambda: engine.not_ready() is None)
            assert failures(engine) == (seen, seen)
            # What is born later, or was not shown yet, waits as long as is said now.
            pass_time(engine, clock, 600)
            assert failures(engine) == (seen, seen)
            checkpoint(engine)
    with running(tmp_path, long, clock) as engine:
        pass_time(engine, clock, 3_600)
        assert failures(engine) == ({"a": 3, "b": 2}, {"a": 3, "b": 2})


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_a_birth_that_was_short_for_a_while_takes_back_nothing_though_no_checkpoint_knows(
    tmp_path, how
):
    """It changes twice with a crash between, and the last checkpoint is from before both."""
    clock = Clock()
    usual, none, long = (
        config(journey("a", outcome=False), exposition={"birth": b}) for b in ("30s", "0", "1h")
    )

    def failures(engine):
        return sum(shown(engine, series.BLAME).values())

    with running(tmp_path, usual, clock) as engine:
        pass_time(engine, clock, 1)
        checkpoint(engine)
        if how == "reload":
            engine.reload(none)
            send(engine, "a", clock, error=True)
            pass_time(engine, clock, 3)
            assert failures(engine) == 1
    if how == "restart":
        with running(tmp_path, none, clock) as engine:
            until(lambda: engine.not_ready() is None)
            send(engine, "a", clock, error=True)
            pass_time(engine, clock, 3)
            assert failures(engine) == 1
    for after in (usual, long, long):
        with running(tmp_path, after, clock) as engine:
            until(lambda: engine.not_ready() is None)
            assert failures(engine) == 1


def test_another_birth_holds_from_a_reload_on(tmp_path):
    clock = Clock()
    short, long = (
        config(journey("a", outcome=False), exposition={"birth": b}) for b in ("10s", "1h")
    )

    def failures(engine):
        return sum(shown(engine, series.BLAME).values())

    with running(tmp_path, long, clock) as engine:
        send(engine, "a", clock, error=True)
        pass_time(engine, clock, 30)
        assert failures(engine) == 0
        engine.reload(short)
        caught_up(engine)
        assert failures(engine) == 1
        engine.reload(short)
        engine.reload(long)
        caught_up(engine)
        assert failures(engine) == 1


def composite(*parts):
    made_of = [{"slo": part} for part in parts]
    return {"slos": [{"name": "all", "objective": 99, "sli": {"composite": made_of}}]}


def test_a_composite_whose_parts_change_never_counts_back_nor_leaps(tmp_path):
    clock = Clock()
    journeys = [journey(name, outcome=False) for name in "abc"]
    before = config(*journeys, **composite("a-success", "b-success"))
    after = config(*journeys, **composite("b-success", "c-success"))

    def good(engine):
        return shown(engine, series.SLO_EVENTS)["all", "good"]

    with running(tmp_path, before, clock) as engine:
        for count, name in ((5, "a"), (3, "b"), (9, "c")):
            send(engine, name, clock, count=count)
        pass_time(engine, clock, 3)
        assert good(engine) == 8
        engine.reload(after)
        assert good(engine) == 8
        send(engine, "a", clock)
        send(engine, "b", clock)
        send(engine, "c", clock)
        pass_time(engine, clock, 3)
        assert good(engine) == 10
        checkpoint(engine)
    with running(tmp_path, before, clock) as engine:
        until(lambda: engine.not_ready() is None)
        assert good(engine) == 10
        send(engine, "a", clock)
        pass_time(engine, clock, 3)
        assert good(engine) == 11


def test_a_reload_whose_checkpoint_fails_keeps_the_old_configuration_and_says_so(tmp_path):
    clock, before = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, before, clock) as engine:
        send(engine, "a", clock)
        pass_time(engine, clock, 3)
        save, engine._store.save = engine._store.save, failing
        with pytest.raises(StorageError, match="disk is full"):
            engine.reload(config(journey("b")))
        assert engine.pipeline.config is before
        assert shown(engine, series.CONFIG_RELOAD_OK) == {(): 0}
        engine._store.save = save
        engine.reload(config(journey("b")))
        assert shown(engine, series.CONFIG_RELOAD_OK) == {(): 1}


def test_a_watched_file_asks_a_full_disk_for_no_checkpoint_beyond_the_engines_own(tmp_path):
    clock, after = Clock(), config(journey("b"))
    file = tmp_path / "config.yaml"
    file.touch()
    tries = []

    def full(*_, **__):
        tries.append(clock.now)
        failing()

    with running(tmp_path, config(journey("a")), clock) as engine:
        send(engine, "a", clock)
        reloading = Reloading(
            lambda: engine.reload(after), WatchedFile(file), lambda: engine.checkpointed
        )
        save, engine._store.save = engine._store.save, full
        file.write_text("journeys: b")
        for _ in range(20):
            reloading.look(asked=False)
        assert len(tries) == 1
        checkpoint(engine)
        reloading.look(asked=False)
        assert len(tries) == 2
        engine._store.save = save
        checkpoint(engine)
        reloading.look(asked=False)
        assert engine.pipeline.config is after


def failing(*_, **__):
    raise StorageError("state.db: the disk is full")


def test_a_reload_of_an_engine_that_has_stopped_is_refused_instead_of_waiting(tmp_path):
    with running(tmp_path, config(journey("a")), Clock()) as engine:
        engine.stop()
        with pytest.raises(StorageError, match="has stopped"):
            engine.reload(config(journey("b")))


# Checkpoints that fail


def test_a_checkpoint_that_fails_is_counted_and_tried_again_and_nothing_is_lost(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock)
        checkpoint(engine)
        succeeded = shown(engine, series.CHECKPOINT_AGE)
        save, engine._store.save = engine._store.save, failing
        pass_time(engine, clock, 3)
        checkpoint(engine)
        assert shown(engine, series.CHECKPOINT_FAILURES) == {(): 1}
        assert shown(engine, series.CHECKPOINT_AGE) == succeeded
        kept = engine._log.first_offset
        send(engine, "a", clock)
        pass_time(engine, clock, 3)
        assert attempts(engine) == {("a", "ok"): 2}
        assert engine._log.first_offset == kept
        engine._store.save = save
        checkpoint(engine)
        assert engine._log.first_offset == engine._log.next_offset
        windows = shown(engine, series.SLO_WINDOW_EVENTS)
    with running(tmp_path, same, clock) as engine:
        until(lambda: engine.not_ready() is None)
        assert attempts(engine) == {("a", "ok"): 2}
        assert shown(engine, series.SLO_WINDOW_EVENTS) == windows


def test_a_log_that_is_full_takes_the_start_and_goes_on(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock, max_bytes=100) as engine:
        engine._store.save = failing
        send(engine, "a", clock)
        with pytest.raises(Overloaded):
            send(engine, "a", clock)
    with running(tmp_path, same, clock, max_bytes=100) as engine:
        until(lambda: engine.not_ready() is None)
        checkpoint(engine)
        send(engine, "a", clock)


def test_a_log_that_cannot_be_written_is_no_start(tmp_path):
    with running(tmp_path, config(journey("a")), Clock(), started=False) as engine:
        engine._log.append = overloaded
        with pytest.raises(StorageError, match=r"cannot start: .*full"):
            engine.start()


def overloaded(*_):
    raise Overloaded("log.db: database or disk is full")


def test_while_the_log_cannot_be_written_the_clock_moves_on_without_it(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock)
        engine._log.append = overloaded
        pass_time(engine, clock, 5)
        assert attempts(engine) == {("a", "ok"): 1}


# What was lost or damaged


def test_a_state_that_was_moved_away_counts_the_log_that_is_kept(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock, keep=60 * SECOND) as engine:
        send(engine, "a", clock, count=3)
        clock.now += 100 * SECOND
        send(engine, "a", clock, count=2)
        pass_time(engine, clock, 5)
        checkpoint(engine)
        first = engine._log.first_offset
        assert 0 < first < engine._log.next_offset
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    with running(tmp_path, same, clock, keep=60 * SECOND) as engine:
        until(lambda: engine.not_ready() is None)
        pass_time(engine, clock, 5)
        assert attempts(engine) == {("a", "ok"): 2}


def test_a_log_that_was_moved_away_costs_only_what_the_checkpoint_lacks(tmp_path, caplog):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock, count=3)
        pass_time(engine, clock, 5)
        checkpoint(engine)
        offset = engine.pipeline.next_offset
    for path in tmp_path.glob("log.db*"):
        path.unlink()
    with running(tmp_path, same, clock) as engine:
        until(lambda: engine.not_ready() is None)
        assert attempts(engine) == {("a", "ok"): 3}
        assert engine._log.first_offset == offset
        send(engine, "a", clock)
        pass_time(engine, clock, 5)
        assert attempts(engine) == {("a", "ok"): 4}
    assert "the log ends before the checkpoint; it is begun anew" in caplog.text


def test_a_state_older_than_the_log_is_refused(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock) as engine:
        checkpoint(engine)
        old = (tmp_path / "state.db").read_bytes(), (tmp_path / "state.db-wal").read_bytes()
        send(engine, "a", clock)
        checkpoint(engine)
        until(lambda: not engine._log._trimming)
        offset = engine.pipeline.next_offset
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    (tmp_path / "state.db").write_bytes(old[0])
    (tmp_path / "state.db-wal").write_bytes(old[1])
    with (
        pytest.raises(LogCorrupt, match=f"begins at {offset}; state.db is older than log.db"),
        running(tmp_path, same, clock),
    ):
        pass


def test_a_damaged_record_stops_it_and_says_where_and_how_to_go_on(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock)
        with engine._log._storing:
            engine._log._connection.execute("UPDATE record SET crc = 1 WHERE offset = 1")
    with running(tmp_path, same, clock) as engine:
        until(lambda: engine.failure)
        assert isinstance(engine.failure, LogCorrupt)
        assert "damaged at offset 1" in engine.not_ready()
        assert "move it away" in engine.not_ready()
        with pytest.raises(Overloaded, match="the exporter has stopped"):
            engine.admit()


def test_a_state_that_is_damaged_while_it_runs_stops_it(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock)
        pass_time(engine, clock, 5)
        checkpoint(engine)
        engine._store._writer.execute("UPDATE minute SET crc = 1")
        send(engine, "a", clock)
        clock.now += 5 * SECOND
        until(lambda: engine.failure or attempts(engine) == {("a", "ok"): 2})
        engine._tried_nano = 1 << 62
        until(lambda: engine.failure)
        assert isinstance(engine.failure, StateCorrupt)


def test_stopping_leaves_a_checkpoint_that_holds_everything(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock) as engine:
        send(engine, "a", clock, count=3)
        pass_time(engine, clock, 5)
        engine.stop()
        assert engine._log.first_offset == engine._log.next_offset
        before = counters(engine)
    with running(tmp_path, same, clock) as engine:
        until(lambda: engine.not_ready() is None)
        assert engine.pipeline.next_offset == engine._log.next_offset
        assert counters(engine) == before


def test_the_log_of_an_exporter_tells_when_it_started_and_when_the_clock_moved(tmp_path):
    clock, same = Clock(), config(journey("a", outcome=False))
    with running(tmp_path, same, clock, keep=1 << 60) as engine:
        send(engine, "a", clock)
        pass_time(engine, clock, 30)
    reader = LogReader(tmp_path / "log.db")
    kinds = [record.kind for record in reader.read(0, max_bytes=1 << 20)]
    reader.close()
    assert kinds[:2] == [Kind.START, Kind.TRACES]
    assert set(kinds[2:]) == {Kind.CLOCK}
