"""What differs between bad and good attempts, against a slow, obvious reference."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scenario import START, Event, Restart, Span, config, read, records, run

from outcome_exporter import series
from outcome_exporter.pipeline import Pipeline
from outcome_exporter.suspects import SUSPECTS_MAX, WINDOWS
from outcome_exporter.units import HOUR, MINUTE, SECOND

DIMENSIONS = ("k8s.pod.name", "service.version", "app.tenant")
BUY = {
    "name": "buy",
    "attempt": {"span": {"service": "frontend", "name": "POST /pay"}},
    "slos": [{"name": "buying", "objective": 99, "good": {"error": False}}],
}
CAUSES = {"dimensions": DIMENSIONS}
SERVICES = ("frontend", "payment", "refund")


def attempt(number, time, *, bad, spans):
    """A trace; `spans` are (service, resource, attributes), the first the attempt's own."""
    return [
        Span(
            trace=number,
            id=k + 1,
            start=time,
            end=time + SECOND // 2,
            parent=min(k, 1),
            service=service,
            name="POST /pay" if k == 0 else "work",
            status=2 if bad and k == 0 else 0,
            resource=resource,
            attributes=attributes,
        )
        for k, (service, resource, attributes) in enumerate(spans)
    ]


def shop(seed, count=150, minutes=8):
    """Attempts of which some values spoil more than others, as a seed has it."""
    rng = random.Random(seed)
    culprit = rng.choice((None, "payment-1", "2.0", "acme"))
    spoils = rng.choice((0.15, 0.5, 1.0))
    arrivals = []
    for number in range(count):
        time = START + number * minutes * MINUTE // count
        pod = rng.randrange(3)
        spans = [
            ("frontend", {"k8s.pod.name": f"frontend-{rng.randrange(2)}"}, {}),
            (
                "payment",
                {"k8s.pod.name": f"payment-{pod}", "service.version": rng.choice(("1.9", "2.0"))},
                {"app.tenant": rng.choice(("acme", "initech", 7, True))},
            ),
        ]
        values = {str(v) for _, resource, own in spans for v in (resource | own).values()}
        bad = rng.random() < (spoils if culprit in values else 0.05)
        if bad and rng.random() < 0.9:  # what only the failed ones reach is no suspect
            spans.append(("refund", {"k8s.pod.name": "refund-0"}, {}))
        arrivals.append((time + SECOND, attempt(number + 1, time, bad=bad, spans=spans)))
    return arrivals


def text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def facts(spans):
    """What an attempt has: (service, dimension, value), each service, and being there at all."""
    found = {(None, None, None)}
    for span in spans:
        found.add((span.service, None, None))
        for name, value in {**span.resource, **span.attributes}.items():
            if name in DIMENSIONS:
                found.add((span.service, name, text(value)))
    return found


def expected(arrivals, now):
    """The suspects by their definition: (service, dimension, value) -> (score, bad, good)."""
    for minutes in WINDOWS:
        good, bad = Counter(), Counter()
        for _, spans in arrivals:
            if spans[0].end // MINUTE > now // MINUTE - minutes:
                (bad if spans[0].status == 2 else good).update(facts(spans))
        found = significant(good, bad)
        if found:
            return found
    return {}


def significant(good, bad):
    all_bad = bad[None, None, None]
    compared = [
        fact
        for fact in good | bad
        if fact[1] and good[fact[0], None, None] and bad[fact[0], None, None]
    ]
    found = {}
    for fact in compared:
        n, m = bad[fact[0], None, None], good[fact[0], None, None]
        k, j = bad[fact], good[fact]
        p = (k + j) / (n + m)
        if all_bad < 5 or not 0 < p < 1 or k < max(5, 0.2 * all_bad):
            continue
        z = (k / n - j / m) / math.sqrt(p * (1 - p) * (1 / n + 1 / m))
        if z >= math.sqrt(9 + 2 * math.log(len(compared))):
            found[fact] = (k / n - j / m, k, j)
    return found


def named(pipeline):
    names, traits = pipeline.traces.texts, pipeline.traces.traits
    return {
        (names.text(one.service), DIMENSIONS[one.dimension], traits.value(one.trait)): (
            pytest.approx(one.score),
            one.bad,
            one.good,
        )
        for one in pipeline.suspects.suspects(0)
    }


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_suspects_are_those_of_the_definition(seed):
    arrivals = shop(seed)
    now = arrivals[-1][0] + 20 * SECOND
    pipeline = run(config(BUY, causes=CAUSES), arrivals, now)
    assert named(pipeline) == expected(arrivals, now)
    scores = read(pipeline, series.SUSPECT_SCORE)
    assert all(0 < score <= 1 for score in scores.values())
    assert set(scores) == {("buy", *fact[1:]) for fact in named(pipeline)}


def test_the_definition_names_something_and_not_everything():
    found = [bool(expected(shop(seed), START + 8 * MINUTE)) for seed in range(40)]
    assert 5 < sum(found) < 35


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(0, 149))
def test_a_restored_state_names_the_same(seed, cut):
    configuration = config(BUY, causes=CAUSES)
    log = records(shop(seed))
    whole, restored = Pipeline(configuration), Pipeline(configuration)
    for record in log:
        if record.offset == cut:
            meta, arrays = restored.dump()
            kept = {name: array.copy() for name, array in arrays.items()}
            restored = Pipeline(configuration)
            restored.restore(meta, kept, record.offset)
        whole.ingest(record)
        restored.ingest(record)
    now = log[-1].arrival_unix_nano + 20 * SECOND
    whole.advance(now)
    restored.advance(now)
    assert read(whole, series.SUSPECT_SCORE) == read(restored, series.SUSPECT_SCORE)
    for name, array in whole.suspects.dump().items():
        assert (array == restored.suspects.dump()[name]).all(), name


def one_pod_of_three(share=1.0, bad_pod="payment-7c9", count=60, begin=START):
    """Every third attempt is on the bad pod, which spoils a share of them."""
    pods = (bad_pod, "payment-4f2", "payment-b1d")
    return [
        (
            begin + (number + 1) * SECOND,
            attempt(
                begin // SECOND + number,
                begin + number * SECOND,
                bad=number % 3 == 0 and number / count < share,
                spans=[("frontend", {}, {}), ("payment", {"k8s.pod.name": pods[number % 3]}, {})],
            ),
        )
        for number in range(count)
    ]


def test_one_bad_pod_of_three_is_named_without_any_configuration():
    pipeline = run(config(BUY), one_pod_of_three(), START + 80 * SECOND)
    assert read(pipeline, series.SUSPECT_SCORE) == {("buy", "k8s.pod.name", "payment-7c9"): 1.0}


def test_four_failures_are_too_few():
    pipeline = run(config(BUY), one_pod_of_three(share=0.2), START + 80 * SECOND)
    assert read(pipeline, series.ATTEMPTS)["buy", "bad", "error"] == 4
    assert read(pipeline, series.SUSPECT_SCORE) == {}


def test_a_value_that_explains_few_of_the_bad_is_not_named():
    def attempts(bad_pod):
        for number in range(240):
            time = START + number * SECOND
            pod = "payment-7c9" if number < bad_pod else "payment-4f2"
            spans = [("frontend", {}, {}), ("payment", {"k8s.pod.name": pod}, {})]
            bad = number < 40  # the first ones, on whatever pod
            yield time + SECOND, attempt(number + 1, time, bad=bad, spans=spans)

    few = run(config(BUY), list(attempts(7)), START + 260 * SECOND)
    assert read(few, series.SUSPECT_SCORE) == {}
    enough = run(config(BUY), list(attempts(8)), START + 260 * SECOND)
    assert read(enough, series.SUSPECT_SCORE) == {("buy", "k8s.pod.name", "payment-7c9"): 0.2}


def test_an_outage_of_five_minutes_is_compared_with_the_hour():
    before = one_pod_of_three(share=0)
    later = [
        (arrival + 20 * MINUTE, attempt(1000 + k, time, bad=True, spans=spans))
        for k, (arrival, time, spans) in enumerate(
            (
                arrival,
                trace[0].start + 20 * MINUTE,
                [("frontend", {}, {}), ("payment", {"k8s.pod.name": "payment-new"}, {})],
            )
            for arrival, trace in before
        )
    ]
    pipeline = run(config(BUY), [*before, *later], START + 22 * MINUTE)
    assert read(pipeline, series.SUSPECT_SCORE) == {("buy", "k8s.pod.name", "payment-new"): 1.0}


def test_suspects_fade_with_their_hour():
    pipeline = run(config(BUY), one_pod_of_three(), START + 59 * MINUTE)
    assert read(pipeline, series.SUSPECT_SCORE)
    pipeline.advance(START + 61 * MINUTE)
    assert read(pipeline, series.SUSPECT_SCORE) == {}
    assert not pipeline.suspects.state.seen.any()


def test_attempts_that_wait_for_their_event_are_counted_when_it_comes_or_does_not():
    journey = BUY | {
        "outcome": {"event": "paid", "within": "2m"},
        "slos": [{"name": "buying", "objective": 99, "good": {"achieved": True}}],
    }
    arrivals = one_pod_of_three(share=0)
    events = [
        (arrival + 30 * SECOND, [Event("paid", str(k), time=arrival, trace=trace[0].trace)])
        for k, (arrival, trace) in enumerate(arrivals)
        if k % 3
    ]
    log = sorted([*arrivals, *events], key=lambda pair: pair[0])
    pipeline = run(config(journey), log, START + 3 * MINUTE + 30 * SECOND)
    (suspect,) = pipeline.suspects.suspects(0)
    assert (suspect.bad, suspect.all_bad, suspect.good, suspect.all_good) == (20, 20, 0, 40)
    restarted = Pipeline(config(journey))
    cut = START + 70 * SECOND
    log = records([*log, (START + 200 * SECOND, Restart())])
    for record in log:
        if record.arrival_unix_nano > cut:
            break
        restarted.ingest(record)
    meta, arrays = restarted.dump()
    again = Pipeline(config(journey))
    again.restore(meta, arrays, restarted.next_offset)
    for record in log[again.next_offset :]:
        again.ingest(record)
    again.advance(START + 5 * MINUTE)
    assert again.suspects.suspects(0)[0][:6] == suspect[:6]


def test_more_values_than_there_is_room_for_are_other_and_counted():
    arrivals = [
        (
            START + (number + 1) * SECOND,
            attempt(
                number + 1,
                START + number * SECOND,
                bad=number >= 150,
                spans=[("frontend", {"app.tenant": f"t{number}"}, {})],
            ),
        )
        for number in range(200)
    ]
    configuration = config(
        BUY, causes={"dimensions": ["app.tenant"]}, limits={"attribute_values": 100}
    )
    pipeline = run(configuration, arrivals, START + 230 * SECOND)
    overflow = read(pipeline, series.OVERFLOW)["attribute_value",]
    assert 100 < overflow < 200
    assert set(read(pipeline, series.SUSPECT_SCORE)) == {("buy", "app.tenant", "other")}


def test_values_that_no_request_had_for_long_make_room_for_new_ones():
    def day(begin, prefix):
        return [
            (
                begin + (n + 1) * SECOND,
                attempt(
                    begin // SECOND + n,
                    begin + n * SECOND,
                    bad=False,
                    spans=[("frontend", {"app.tenant": f"{prefix}{n}"}, {})],
                ),
            )
            for n in range(90)
        ]

    configuration = config(
        BUY, causes={"dimensions": ["app.tenant"]}, limits={"attribute_values": 100}
    )
    arrivals = [*day(START, "a"), *day(START + 120 * MINUTE, "b"), *day(START + 240 * MINUTE, "c")]
    pipeline = run(configuration, arrivals, START + 250 * MINUTE)
    traits = pipeline.traces.traits
    alive = traits.arrays.rows["alive"] == 1
    values = {traits.value(row) for row in alive.nonzero()[0].tolist()}
    assert values == {"other", "", *(f"c{n}" for n in range(51))}


def test_combinations_that_fill_their_room_cost_no_comparison_after_a_restart():
    def tries(first, count, time, values, is_bad):
        return [
            span
            for n in range(count)
            for span in attempt(first + n, time, bad=is_bad(n), spans=[("frontend", values(n), {})])
        ]

    every = tries(
        1,
        400,
        START,
        lambda n: {"app.tenant": f"t{n % 20}", "app.tier": f"u{n // 20}"},
        lambda _: False,
    )
    later = START + 5 * HOUR
    fault = tries(1_000, 40, later, lambda n: {"app.tenant": f"new-{n % 2}"}, lambda n: n % 2 == 1)
    log = records([(START + SECOND, every), (later + SECOND, fault)])
    configuration = config(
        BUY, causes={"dimensions": ["app.tenant", "app.tier"]}, limits={"attribute_values": 100}
    )
    pipeline, again = Pipeline(configuration), Pipeline(configuration)
    pipeline.ingest(log[0])
    pipeline.advance(START + MINUTE)
    assert (pipeline.traces.traits.arrays.sets["alive"][1:] == 1).all()
    again.restore(*pipeline.dump(), pipeline.next_offset)
    again.ingest(log[1])
    again.advance(later + MINUTE)
    assert read(again, series.SUSPECT_SCORE) == {("buy", "app.tenant", "new-1"): 1}


def test_no_more_values_are_shown_than_can_be_read():
    names = [f"d{n}" for n in range(14)]
    arrivals = [
        (
            START + (number + 1) * SECOND,
            attempt(
                number + 1,
                START + number * SECOND,
                bad=number % 2 == 0,
                spans=[("frontend", dict.fromkeys(names, str(number % 2)), {})],
            ),
        )
        for number in range(60)
    ]
    pipeline = run(config(BUY, causes={"dimensions": names}), arrivals, START + 90 * SECOND)
    assert len(read(pipeline, series.SUSPECT_SCORE)) == SUSPECTS_MAX


def test_nothing_is_kept_where_nothing_is_compared():
    pipeline = run(config(BUY, causes={"dimensions": []}), one_pod_of_three(), START + 80 * SECOND)
    assert read(pipeline, series.SUSPECT_SCORE) == {}
    kept = [*pipeline.suspects.dump().values(), *pipeline.traces.traits.dump().values()]
    assert sum(array.nbytes for array in kept) < 2_000


def test_other_dimensions_begin_anew_and_the_same_go_on():
    pipeline = run(config(BUY), one_pod_of_three(), START + 80 * SECOND)
    for causes, stays in (({}, True), ({"dimensions": ["k8s.pod.name"]}, False)):
        meta, arrays = pipeline.dump()
        reloaded = Pipeline(config(BUY, causes=causes))
        reloaded.restore(meta, arrays, pipeline.next_offset)
        assert bool(read(reloaded, series.SUSPECT_SCORE)) == stays
        for later in records(one_pod_of_three(bad_pod="payment-000", begin=START + 2 * HOUR)):
            reloaded.ingest(later._replace(offset=later.offset + 1000))
        reloaded.advance(START + 2 * HOUR + 80 * SECOND)
        assert read(reloaded, series.SUSPECT_SCORE) == {("buy", "k8s.pod.name", "payment-000"): 1.0}


def test_chance_names_next_to_nothing():
    """Bad attempts that have nothing in common, 200 journeys' worth, among 50 pods."""
    rng = random.Random(5)
    false = 0
    for _ in range(40):
        arrivals = []
        for number in range(200):
            time = START + number * SECOND
            spans = [(f"s{k}", {"k8s.pod.name": f"s{k}-{rng.randrange(5)}"}, {}) for k in range(10)]
            spans[0] = ("frontend", *spans[0][1:])
            arrivals.append(
                (time + SECOND, attempt(number + 1, time, bad=rng.random() < 0.1, spans=spans))
            )
        pipeline = run(config(BUY), arrivals, START + 230 * SECOND)
        false += len(pipeline.suspects.suspects(0))
    assert false <= 1
