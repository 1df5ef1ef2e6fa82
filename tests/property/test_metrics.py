"""Whatever happens between a counter and us, every event counts once."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.otlp_metrics import DELTA, NAME, RATIO, START, Exporter, config_of, counter

from outcome_exporter.minutes import spread
from outcome_exporter.units import MILLIONTHS, MINUTE, SECOND


@dataclass(frozen=True)
class Life:
    """One process: when it began, and what it counted by the time of each of its points."""

    pod: str
    began: int
    points: tuple[tuple[int, int, int], ...]
    """Second, good, bad; ascending."""

    @property
    def counted(self) -> tuple[int, int]:
        return self.points[-1][1:] if self.points else (0, 0)


@st.composite
def lives(draw):
    found = []
    for pod in range(draw(st.integers(1, 4))):
        now = draw(st.integers(0, 300))
        for _ in range(draw(st.integers(1, 3))):  # restarts
            began, good, bad, points = now, 0, 0, []
            for _ in range(draw(st.integers(1, 5))):
                now += draw(st.integers(1, 700))  # a gap now and then
                good += draw(st.integers(0, 9))
                bad += draw(st.integers(0, 3))
                points.append((now, good, bad))
            found.append(Life(str(pod), began, tuple(points)))
            now += draw(st.integers(0, 60))
    return found


def sends(life: Life, *, delta: bool):
    """A request for each point of a life: (second, pod, metrics)."""
    began, before = life.began, (0, 0)
    for second, *counts in life.points:
        values = [n - b if delta else n for n, b in zip(counts, before, strict=True)]
        since = began if delta else life.began
        temporality = {"temporality": DELTA} if delta else {}
        yield (
            second,
            life.pod,
            [
                counter(value, second, since=since, status=status, **temporality)
                for value, status in zip(values, ("200", "500"), strict=True)
            ],
        )
        began, before = second, tuple(counts)


def total(processes):
    return tuple(map(sum, zip(*(life.counted for life in processes), strict=True)))


@settings(max_examples=60)
@given(processes=lives(), order=st.randoms(use_true_random=False), again=st.integers(1, 3))
def test_every_event_counts_once_through_restarts_gaps_and_repeats(processes, order, again):
    requests = [request for life in processes for request in sends(life, delta=False)]
    repeated = sorted(requests * again, key=lambda request: request[0])
    swapped = list(repeated)
    order.shuffle(swapped)
    for sequence in (repeated, swapped):
        exporter = Exporter(config_of(RATIO))
        for _, pod, metrics in sequence:
            exporter.send(*metrics, at=20_000, pod=pod)
        good, bad = exporter.events()
        assert (good, bad) == total(processes)
        buckets = exporter.buckets().values()
        assert (sum(g for g, _ in buckets), sum(b for _, b in buckets)) == (good, bad)


@settings(max_examples=60)
@given(processes=lives(), order=st.randoms(use_true_random=False), again=st.integers(1, 3))
def test_deltas_count_once_in_whatever_order_they_come(processes, order, again):
    requests = [request for life in processes for request in sends(life, delta=True)] * again
    order.shuffle(requests)
    exporter = Exporter(config_of(RATIO))
    for _, pod, metrics in requests:
        exporter.send(*metrics, at=20_000, pod=pod)
    assert exporter.events() == total(processes)


@settings(max_examples=40)
@given(processes=lives())
def test_two_metrics_count_as_one_that_tells_them_apart(processes):
    """The same events as `requests` and `errors` give what one metric with a status gives."""
    of_two = {"name": "requests", "service": "shop", "bad": {"name": "errors"}}
    exporter = Exporter(config_of(RATIO, of_two))
    requests = sorted(
        ((second, life, good, bad) for life in processes for second, good, bad in life.points),
        key=lambda request: request[0],
    )
    for second, life, good, bad in requests:
        since = {"since": life.began}
        exporter.send(
            counter(good, second, **since),
            counter(bad, second, status="500", **since),
            counter(good + bad, second, name="requests", **since),
            counter(bad, second, name="errors", **since),
            at=20_000,
            pod=life.pod,
        )
    exporter.pipeline.advance(START + 30_000 * SECOND)
    assert exporter.events(0) == exporter.events(1) == total(processes)


@given(
    weight=st.integers(0, 10**13),
    began=st.integers(0, 10**13),
    length=st.integers(1, 10**13),
    unit=st.sampled_from([1, MILLIONTHS]),
)
def test_what_is_spread_adds_up_in_order_and_within_its_time(weight, began, length, unit):
    weight = weight // unit * unit
    ended = began + length
    pieces = list(spread(weight, began, ended, unit))
    assert sum(share for _, share in pieces) == weight
    assert all(share > 0 and share % unit == 0 for _, share in pieces)
    assert all(began <= time < ended for time, _ in pieces)
    minutes = [time // MINUTE for time, _ in pieces]
    assert minutes == sorted(set(minutes))


def test_a_name_that_no_slo_reads_is_not_even_decoded():
    exporter = Exporter(config_of(RATIO))
    assert exporter.pipeline.metrics.names == {NAME}
