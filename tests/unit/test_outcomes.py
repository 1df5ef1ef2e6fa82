"""The join: who waits for whom, and what is counted when they met or did not."""

from itertools import pairwise

import pytest
from tests.scenario import START, Event, Span, config, read, reasons, record, run

from outcome_exporter import series
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.snapshot import snapshot
from outcome_exporter.units import HOUR, MINUTE, SECOND

CHECKOUT = {
    "name": "checkout",
    "attempt": {"span": {"name": "POST /pay"}},
    "join": ["trace_id", {"attribute": "order", "event": "data.order"}],
    "outcome": {"event": "paid", "within": "30s"},
}
VALUED = {**CHECKOUT, "value": {"event": "data.total", "currency": "USD"}}
OTHER = {**CHECKOUT, "name": "other"}


def try_(trace: int, at: int, **more) -> tuple[int, list[Span]]:
    """An attempt that begins and arrives at `at`, in seconds after the start."""
    time = START + at * SECOND
    return time, [Span(trace=trace, id=1, start=time, end=time + SECOND, **more)]


def paid(at: int, name: str = "e", trace: int | None = None, **data) -> tuple[int, list[Event]]:
    """An event that happens and arrives at `at`."""
    time = START + at * SECOND
    return time, [Event("paid", name, time, trace, data)]


def money(pipeline) -> dict[str, float]:
    return {labels[2]: value for labels, value in read(pipeline, series.VALUE).items()}


def test_an_event_that_one_of_two_journeys_wanted_is_not_unmatched():
    other = {**OTHER, "attempt": {"span": {"name": "never"}}}
    pipeline = run(config(CHECKOUT, other), [try_(1, 0), paid(3, trace=1)], START + HOUR)
    assert reasons(pipeline) == {"ok": 1}
    assert read(pipeline, series.EVENTS_UNMATCHED) == {("paid",): 0}


def test_an_event_that_nobody_wanted_is_unmatched_once_whatever_the_journeys():
    pipeline = run(config(CHECKOUT, OTHER), [paid(3, trace=9)], START + HOUR)
    assert read(pipeline, series.EVENTS_UNMATCHED) == {("paid",): 1}


def test_events_that_no_journey_listens_to_push_no_other_out_of_memory():
    noise = [(START + 2 * SECOND, [Event("noise", str(n), START) for n in range(1_500)])]
    arrivals = [paid(1, trace=9), *noise, paid(3, trace=9)]
    pipeline = run(config(CHECKOUT, limits={"remembered": 1_000}), arrivals)
    assert read(pipeline, series.DUPLICATES)["event",] == 1
    assert read(pipeline, series.OVERFLOW)["remembered_events",] == 0


def test_a_failed_attempt_without_a_value_costs_what_earlier_events_said():
    arrivals = [try_(1, 0), paid(1, trace=1, total=40), try_(2, 2, status=2)]
    assert money(run(config(VALUED), arrivals, START + HOUR)) == {
        "achieved": 40,
        "at_risk": 40,
        "lost": 40,
    }


def test_the_recent_mean_moves_a_sixteenth_of_the_way():
    arrivals = [
        paid(0, "a", trace=1, total=16),
        try_(1, 1),
        paid(2, "b", trace=2, total=32),
        try_(2, 3),
        try_(3, 4, status=2),
    ]
    assert money(run(config(VALUED), arrivals, START + HOUR))["lost"] == 17


@pytest.mark.parametrize("event_first", [False, True])
def test_users_that_only_the_event_knows_are_counted(event_first):
    journey = {**CHECKOUT, "user": {"event": "data.user"}}
    arrivals = []
    for trace, status, user in ((1, 0, "ann"), (2, 2, "bob"), (3, 2, "bob")):
        event = paid(20 * trace + (0 if event_first else 15), str(trace), trace, user=user)
        arrivals += sorted([try_(trace, 20 * trace + 1, status=status), event])
    users = read(run(config(journey), arrivals, START + 3 * MINUTE), series.USERS)
    assert users["checkout", "any", "1h"] == 2
    assert users["checkout", "bad", "1h"] == 1


@pytest.mark.parametrize("sampling", [{}, {"tracestate": "ot=th:fffffff"}])
def test_sums_of_money_that_64_bits_do_not_hold_begin_anew_and_none_turns_negative(sampling):
    journey = {**CHECKOUT, "value": {"attribute": "total", "currency": "IDR"}}
    failed = {"status": 2, "attributes": {"total": 10**12}, **sampling}
    at_risk, blamed = [], []
    for tries in range(1, 12):
        pipeline = run(
            config(journey), [try_(n, n, **failed) for n in range(1, tries + 1)], START + HOUR
        )
        at_risk.append(money(pipeline)["at_risk"])
        blamed.append(sum(read(pipeline, series.BLAME_VALUE).values()))
    assert blamed == at_risk
    assert min(at_risk) > 0
    if not sampling:
        # What Prometheus makes of it: a counter that fell has added what it says.
        rises = [new - old if new > old else new for old, new in pairwise([0, *at_risk])]
        assert rises == 11 * [10**12]


# Another configuration --------------------------------------------------------------------------

RETURN = {
    "name": "return",
    "attempt": {"event": "returned"},
    "join": [{"attribute": "data.order", "event": "data.order"}],
    "outcome": {"event": "refunded", "within": "30s"},
}


def under(pipeline: Pipeline, *journeys, **sections) -> Pipeline:
    """The same state under another configuration."""
    fresh = Pipeline(config(*journeys, **sections))
    fresh.restore(*pipeline.dump(), pipeline.next_offset)
    return fresh


def test_an_attempt_whose_event_nobody_waits_for_any_more_is_fine():
    before = run(config(VALUED), [try_(1, 0), try_(2, 2, status=2)], START + 15 * SECOND)
    alone = {name: value for name, value in VALUED.items() if name not in ("outcome", "value")}
    moved = under(before, alone)
    moved.advance(START + HOUR)
    assert reasons(moved) == {"ok": 1, "error": 1}


def test_money_of_a_currency_that_was_left_is_not_shown_as_that_of_the_new_one():
    euros = {**VALUED, "value": {"event": "data.total", "currency": "EUR"}}
    arrivals = [
        paid(0, "a", trace=1, total=40),
        try_(1, 0),
        try_(2, 2, status=2),
        paid(14, "b", trace=3, total=7),
    ]
    before = run(config(VALUED), arrivals, START + 15 * SECOND)
    assert money(before) == {"achieved": 40, "at_risk": 40, "lost": 0}
    moved = under(before, euros)
    moved.ingest(record(9, *try_(3, 15)))
    moved.advance(START + HOUR)
    assert reasons(moved) == {"ok": 2, "error": 1}
    assert money(moved) == {"achieved": 0, "at_risk": 0, "lost": 0}
    blamed = snapshot(moved)[series.BLAME_VALUE]
    assert {s.labels[1] for s in blamed} == {"EUR"}
    assert sum(s.value for s in blamed) == 0
    assert sum(s.value for s in snapshot(before)[series.BLAME_VALUE]) == 40
    assert money(under(before, {**VALUED, "title": "Pay"})) == money(before)


def test_events_keep_their_type_when_journeys_move():
    pipeline = run(config(RETURN, CHECKOUT), [paid(0, trace=9)])
    moved = under(pipeline, CHECKOUT)
    moved.advance(START + HOUR)
    assert read(moved, series.EVENTS_UNMATCHED) == {("paid",): 1}


@pytest.mark.parametrize("stays", [(CHECKOUT, OTHER), (OTHER, CHECKOUT), (OTHER,)])
def test_an_event_that_came_again_later_than_it_was_remembered_stays_another_one(stays):
    traces = {"dedupe": "10s"}
    arrivals = [paid(0, trace=8), paid(20, trace=9)]
    pipeline = run(config(CHECKOUT, OTHER, traces=traces), arrivals)
    moved = under(pipeline, *stays, traces=traces)
    moved.advance(START + HOUR)
    assert read(moved, series.EVENTS_UNMATCHED) == {("paid",): 2}


def test_an_event_that_a_journey_no_longer_waits_for_achieves_nothing():
    pipeline = run(config(CHECKOUT), [paid(0, trace=1)])
    moved = under(pipeline, {**CHECKOUT, "outcome": {"event": "shipped", "within": "30s"}})
    moved.ingest(record(9, *try_(1, 1)))
    moved.advance(START + HOUR)
    assert reasons(moved) == {"missed": 1}


def test_an_slo_that_moves_to_another_journey_judges_none_of_the_old_ones_attempts():
    slos = [{"name": name, "objective": 99, "good": {"achieved": True}} for name in ("one", "two")]
    pipeline = run(config({**CHECKOUT, "slos": slos}, OTHER), [try_(1, 0)], START + 15 * SECOND)
    moved = under(
        pipeline, {**CHECKOUT, "slos": slos[1:]}, {**OTHER, "name": "third", "slos": slos[:1]}
    )
    moved.advance(START + HOUR)
    assert read(moved, series.SLO_EVENTS) == {
        ("one", "good"): 0,
        ("one", "bad"): 0,
        ("two", "good"): 0,
        ("two", "bad"): 1,
    }


def shown_labels(pipeline: Pipeline) -> dict[str, float]:
    return {
        labels[3]: value
        for labels, value in read(pipeline, series.ATTEMPTS).items()
        if labels[2] == "missed" and value
    }


LABELLED = {**CHECKOUT, "labels": {"tier": "tier"}}


def tried(*tiers: str, first: int = 1) -> list:
    return [
        try_(n, n, attributes={"tier": tier, "region": f"of-{tier}"})
        for n, tier in enumerate(tiers, start=first)
    ]


def test_label_values_stay_when_their_limit_is_lowered_and_new_ones_are_other():
    pipeline = run(config(LABELLED), tried("a", "b", "c", "d"))
    moved = under(pipeline, LABELLED, limits={"label_values": 2})
    for offset, arrival in enumerate(tried("d", "e", first=10), start=10):
        moved.ingest(record(offset, *arrival))
    moved.advance(START + HOUR)
    assert shown_labels(moved) == {"a": 1, "b": 1, "c": 1, "d": 2, "other": 1}


def test_attempts_that_wait_lose_labels_that_mean_something_else_now():
    # Half of them wait for their event, the other half for their trace to be quiet.
    arrivals = [*tried("a"), (START + 25 * SECOND, try_(7, 25, attributes={"tier": "b"})[1])]
    pipeline = run(config(LABELLED), arrivals)
    moved = under(pipeline, {**CHECKOUT, "labels": {"region": "region"}})
    moved.ingest(record(10, START + 40 * SECOND, try_(8, 39, attributes={"region": "x"})[1]))
    moved.advance(START + HOUR)
    assert shown_labels(moved) == {"": 2, "x": 1}


def test_label_values_of_journeys_that_are_gone_take_no_room():
    pipeline = run(config(LABELLED, limits={"label_values": 2}), tried("a", "b"))
    for n in range(4):
        journey = {**LABELLED, "name": f"checkout-{n}"}
        pipeline = under(pipeline, journey, limits={"label_values": 2})
        for i, arrival in enumerate(tried(f"a{n}", f"b{n}", first=20 * (n + 1))):
            pipeline.ingest(record(10 * (n + 1) + i, *arrival))
    pipeline.advance(START + HOUR)
    assert shown_labels(pipeline) == {"a3": 1, "b3": 1}


def test_an_event_whose_time_was_never_set_achieves_its_attempt_all_the_same():
    slo = {"name": "paid", "objective": 99, "good": {"achieved": True}}
    event = Event("paid", "e", -62_135_596_800 * SECOND, 1)  # 0001-01-01T00:00:00Z
    arrivals = [try_(1, 0), (START + 20 * SECOND, [event])]
    pipeline = run(config({**CHECKOUT, "slos": [slo]}), arrivals, START + HOUR)
    assert reasons(pipeline) == {"ok": 1}
    assert read(pipeline, series.SLO_EVENTS) == {("paid", "good"): 1, ("paid", "bad"): 0}


def test_a_value_that_is_called_other_is_none_that_there_was_no_room_for():
    pipeline = run(config(LABELLED), tried("other", "a"), START + HOUR)
    assert shown_labels(pipeline) == {"other": 1, "a": 1}
    assert read(pipeline, series.OVERFLOW)["label_value",] == 0


def test_causes_beyond_the_limit_stay_other_after_a_restart():
    journeys, limits = [CHECKOUT, OTHER], {"causes": 10}
    arrivals = [try_(n, n, status=2, service=f"of-{n}") for n in range(1, 20)]
    pipeline = run(config(*journeys, limits=limits), arrivals, START + HOUR)
    blamed = read(pipeline, series.BLAME)
    assert sum(blamed.values()) == 2 * 19
    assert len(blamed) == 10 + 2
    assert read(under(pipeline, *journeys, limits=limits), series.BLAME) == blamed


def test_causes_stay_when_their_limit_is_lowered_and_new_ones_are_other():
    arrivals = [try_(n, n, status=2, service=f"of-{n}") for n in range(1, 20)]
    pipeline = run(config(CHECKOUT), arrivals, START + HOUR)
    blamed = read(pipeline, series.BLAME)
    moved = under(pipeline, CHECKOUT, limits={"causes": 10})
    assert read(moved, series.BLAME) == blamed
    moved.ingest(record(30, *try_(30, 3600, status=2, service="new")))
    moved.advance(START + 2 * HOUR)
    other = "checkout", "other", "other", "", "error"
    assert read(moved, series.BLAME) == blamed | {other: 1}


def test_values_that_had_no_room_stay_counted_when_their_limit_changes():
    limits = {"attribute_values": 100}
    pods = [try_(n, n, resource={"k8s.pod.name": f"pod-{n}"}) for n in range(1, 200)]
    pipeline = run(config(CHECKOUT, limits=limits), pods)
    left_out = read(pipeline, series.OVERFLOW)
    assert left_out["attribute_value",] > 0
    assert read(under(pipeline, CHECKOUT), series.OVERFLOW) == left_out


HALF_A_DAY = {
    **CHECKOUT,
    "user": {"attribute": "user"},
    "outcome": {"event": "paid", "within": "12h"},
}


def test_users_who_are_hurt_are_never_more_than_users():
    arrivals = [try_(n, n, attributes={"user": f"u{n}"}) for n in range(1, 8)]
    users = read(run(config(HALF_A_DAY), arrivals, START + 12 * HOUR + MINUTE), series.USERS)
    assert users["checkout", "bad", "1h"] == users["checkout", "any", "1h"] == 7


def test_a_clock_that_is_ahead_pushes_no_user_out_of_a_window():
    arrivals = [try_(n, n, attributes={"user": f"u{n}"}) for n in range(1, 8)]
    later = START + 58 * MINUTE
    ahead = [Span(9, 1, later + 9 * MINUTE, later + 9 * MINUTE, attributes={"user": "u9"})]
    pipeline = run(config(HALF_A_DAY), [*arrivals, (later, ahead)], later + MINUTE)
    assert read(pipeline, series.USERS)["checkout", "any", "1h"] == 8


@pytest.mark.parametrize(("before", "after"), [("2s", "500ms"), ("500ms", "2s")])
@pytest.mark.parametrize("is_paid", [False, True])
def test_whether_an_attempt_was_slow_stays_as_it_was_when_the_limit_changes(before, after, is_paid):
    attributes = {"total": 5}
    valued = {**CHECKOUT, "value": {"attribute": "total", "currency": "USD"}}
    arrivals = [try_(1, 0, attributes=attributes), try_(2, 0, attributes=attributes)]
    pipeline = run(config({**valued, "slow_above": before}), arrivals, START + 15 * SECOND)
    moved = under(pipeline, {**valued, "slow_above": after})
    if is_paid:
        moved.ingest(record(9, *paid(16, trace=1)))
    moved.advance(START + HOUR)
    bad = sum(count for reason, count in reasons(moved).items() if reason != "ok")
    assert sum(read(moved, series.BLAME).values()) == bad
    assert money(moved)["at_risk"] == 5 * bad


def test_a_state_of_before_that_tells_of_no_attempt_whether_it_was_slow_is_read():
    slow = {**CHECKOUT, "slow_above": "500ms"}
    meta, arrays = run(config(slow), [try_(1, 0)], START + 15 * SECOND).dump()
    del arrays["outcomes.tells_slow"]
    arrays["outcomes.attempts"]["error"] = 0
    moved = Pipeline(config(slow))
    moved.restore(meta, arrays, 1)
    moved.advance(START + HOUR)
    assert reasons(moved) == {"missed": 1}
    assert sum(read(moved, series.BLAME).values()) == 1
