"""What must hold whatever comes, in which order and in which pieces."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property import scenarios
from tests.scenario import START, Event, MemoryStore, Restart, config, read, records, run

from outcome_exporter import series
from outcome_exporter.exposition import render
from outcome_exporter.kernels import joining
from outcome_exporter.kernels.hashing import KNOWN_SEED, Seed
from outcome_exporter.model import Record
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import MINUTE, SECOND

OUTCOMES = (
    series.ATTEMPTS,
    series.ATTEMPT_DURATION,
    series.VALUE,
    series.USERS,
    series.SLO_EVENTS,
    series.SLO_WINDOW_EVENTS,
    series.EVENTS_UNMATCHED,
    series.PENDING_ATTEMPTS,
)
STEADY = scenarios.CONFIG
END = START + 20 * MINUTE


def outcomes(pipeline: Pipeline) -> dict:
    """Everything that users got, without how it came about."""
    return {family.name: read(pipeline, family) for family in OUTCOMES}


def text(pipeline: Pipeline) -> str:
    return render(snapshot(pipeline), openmetrics=True).decode()


def settled(log: list[Record], configuration=STEADY, seed=KNOWN_SEED) -> Pipeline:
    pipeline = Pipeline(configuration, seed=seed)
    for record in log:
        pipeline.ingest(record)
    pipeline.advance(END)
    return pipeline


# Replaying and restoring ------------------------------------------------------------------------


SEEDS = st.binary(min_size=16, max_size=16).map(Seed.of)


@settings(max_examples=40)
@given(scenarios.arrivals(), SEEDS)
def test_a_replay_yields_the_same_bytes_and_state_wherever_tables_keep_their_keys(arrivals, seed):
    log = records(arrivals)
    one, other = settled(log), settled(log, seed=seed)
    assert text(one) == text(other)
    (meta, arrays), (other_meta, other_arrays) = one.dump(), other.dump()
    assert meta == other_meta
    assert {name: array.tobytes() for name, array in arrays.items()} == {
        name: array.tobytes() for name, array in other_arrays.items()
    }


@settings(max_examples=40)
@given(scenarios.arrivals(restarts=False), st.lists(st.integers(1, 200), max_size=5))
def test_the_clock_moved_on_without_arrivals_changes_nothing(arrivals, pauses):
    log = records(arrivals)
    pipeline = Pipeline(STEADY)
    for record in log:
        before = pipeline.second
        pipeline.ingest(record)
        for pause in pauses if before is not None else ():
            earlier = min(record.arrival_unix_nano + pause * SECOND, next_arrival(log, record) - 1)
            pipeline.advance(earlier)
    pipeline.advance(END)
    assert text(pipeline) == text(settled(log))


def next_arrival(log: list[Record], record: Record) -> int:
    after = [each for each in log if each.offset > record.offset]
    return after[0].arrival_unix_nano if after else END


@settings(max_examples=40)
@given(scenarios.arrivals(), st.data())
def test_a_state_saved_between_any_records_goes_on_identically(arrivals, data):
    log = records(arrivals)
    places = data.draw(st.lists(st.integers(1, len(log)), max_size=3), label="checkpoints")
    store = MemoryStore()
    pipeline = Pipeline(STEADY, store)
    for record in log:
        pipeline.ingest(record)
        for _ in range(places.count(record.offset + 1)):
            pipeline.advance(record.arrival_unix_nano + 3 * SECOND // 2)
            store.add(pipeline.slos.fresh())
            pipeline.slos.flushed()
            meta, arrays = pipeline.dump()
            arrays = {name: array.copy() for name, array in arrays.items()}
            before = text(pipeline)
            pipeline = Pipeline(STEADY, store, data.draw(SEEDS, label="seed"))
            pipeline.restore(meta, arrays, record.offset + 1)
            assert text(pipeline) == before
    pipeline.advance(END)
    plain = Pipeline(STEADY)
    for record in log:
        plain.ingest(record)
        if record.offset + 1 in places:
            plain.advance(record.arrival_unix_nano + 3 * SECOND // 2)
    plain.advance(END)
    assert text(pipeline) == text(plain)


MOVED = config(
    scenarios.SIGN_UP,
    {**scenarios.CHECKOUT, "slos": scenarios.CHECKOUT["slos"][::-1]},
    {"name": "new", "attempt": {"span": {"name": "charge"}}},
    scenarios.BROWSE,
    traces=STEADY.traces.model_dump(),
    time=STEADY.time.model_dump(),
    limits=STEADY.limits.model_dump(),
)
"""The same journeys in another order, their SLOs too, and one more."""


@settings(max_examples=40)
@given(scenarios.arrivals(), st.data())
def test_journeys_keep_their_history_under_a_configuration_that_orders_them_anew(arrivals, data):
    log = records(arrivals)
    place = data.draw(st.integers(1, len(log)), label="reload")
    store = MemoryStore()
    pipeline = Pipeline(STEADY, store)
    for record in log[:place]:
        pipeline.ingest(record)
    fresh = pipeline.slos.fresh().copy()
    numbers = {slo.name: i for i, (_, slo) in enumerate(MOVED.slos)}
    fresh["slo"] = [numbers[STEADY.slos[i][1].name] for i in fresh["slo"]]
    store.add(fresh)
    moved = Pipeline(MOVED, store)
    moved.restore(*pipeline.dump(), place)
    for record in log[place:]:
        moved.ingest(record)
    moved.advance(END)
    assert without_new(outcomes(moved)) == without_new(outcomes(settled(log)))


def without_new(families: dict) -> dict:
    return {
        name: {labels: value for labels, value in values.items() if labels[0] != "new"}
        for name, values in families.items()
    }


# Order and pieces -------------------------------------------------------------------------------

PATIENT = config(
    {key: value for key, value in scenarios.CHECKOUT.items() if key != "labels"},
    {key: value for key, value in scenarios.BROWSE.items() if key != "labels"},
    traces={"quiet": "1m", "max_age": "2m", "dedupe": "2h"},
    time={"lateness": "2m"},
)
"""Waits long enough for everything that comes within a minute. Labels are given in the order in
which their values come, so the capped ones would differ."""


@st.composite
def requests(draw):
    """Spans and events that all arrive within half a minute, each id with one content."""
    at = START + 30 * SECOND
    some = draw(st.lists(scenarios.spans(at), max_size=8, unique_by=lambda s: (s.trace, s.id)))
    events = draw(st.lists(scenarios.events(at), max_size=6, unique_by=lambda e: e.id))
    # An event's value makes the recent mean, which is a matter of order.
    every_value = {"total": 5}
    return [
        *(type(s)(**{**vars(s), "attributes": {**s.attributes, **every_value}}) for s in some),
        *(
            Event(
                e.type,
                e.id,
                e.time if e.time is not None else at,
                e.trace,
                {**e.data, **every_value},
            )
            for e in events
        ),
    ]


def sent(items: list, seed: int, *, at_once: int) -> list:
    """Requests of at most `at_once` spans or events, in some order, within half a minute."""
    rng = random.Random(seed)
    rng.shuffle(items := list(items))
    arrivals, now = [], START + 30 * SECOND
    while items:
        kind = type(items[0])
        size = rng.randint(1, at_once)
        batch = [item for item in items if isinstance(item, kind)][:size]
        items = [item for item in items if not any(item is each for each in batch)]
        now += rng.randint(1, SECOND)
        arrivals.append((now, batch))
    return arrivals


@settings(max_examples=40)
@given(requests(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_order_and_pieces_of_requests_change_no_outcome(items, one, other):
    first = run(PATIENT, sent(items, one, at_once=1), END)
    second = run(PATIENT, sent(items, other, at_once=9), END)
    assert outcomes(first) == outcomes(second)


@settings(max_examples=40)
@given(requests(), st.integers(0, 10**6), st.integers(1, 3))
def test_what_is_sent_several_times_counts_once(items, seed, times):
    once = run(PATIENT, sent(items, seed, at_once=3), END)
    log = sent(items, seed, at_once=3)
    again = [(now + 3 * SECOND * n, batch) for n in range(times + 1) for now, batch in log]
    late = [(START + 10 * MINUTE, batch) for _, batch in log]
    repeated = run(PATIENT, [*sorted(again, key=lambda each: each[0]), *late], END)
    assert outcomes(repeated) == outcomes(once)


# Sums -------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(scenarios.arrivals())
def test_every_attempt_ends_in_exactly_one_outcome_and_every_slo_judges_it_once(arrivals):
    pipeline = settled(records(arrivals))
    assert not any(read(pipeline, series.PENDING_ATTEMPTS).values())
    ended = {}
    for (journey, *_), value in read(pipeline, series.ATTEMPTS).items():
        ended[journey] = ended.get(journey, 0) + value
    begun = {
        journey.name: sum(pipeline.outcomes.durations[j].tolist()) / 1e6
        for j, journey in enumerate(pipeline.plan.journeys)
    }
    assert {name: count for name, count in begun.items() if count} == {
        name: count for name, count in ended.items() if count
    }
    events = read(pipeline, series.SLO_EVENTS)
    for journey, slo in pipeline.plan.slos:
        assert events[slo.name, "good"] + events[slo.name, "bad"] == begun[journey.name]


@settings(max_examples=40)
@given(scenarios.arrivals())
def test_counters_never_go_back(arrivals):
    pipeline, before = Pipeline(STEADY), {}
    for record in records(arrivals):
        pipeline.ingest(record)
        now = {
            (family.name, sample.labels): sample.value
            for family, samples in snapshot(pipeline).items()
            if family.type == "counter"
            for sample in samples
        }
        assert before.keys() <= now.keys()
        assert all(now[key] >= value for key, value in before.items())
        before = now


@settings(max_examples=40)
@given(scenarios.arrivals())
def test_money_is_at_risk_before_it_is_lost(arrivals):
    pipeline = settled(records(arrivals))
    for j, journey in enumerate(pipeline.plan.journeys):
        if journey.value is not None:
            _, at_risk, lost = pipeline.outcomes.value[j].tolist()
            assert lost <= at_risk
    assert joining.LOST == 2


def test_laws_hold_on_an_empty_log():
    assert text(run(STEADY, [(START, Restart())], END)) == text(run(STEADY, [(START, [])], END))
