"""The clock that verdicts follow: it never goes back, never leaps, and never stands still."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcome_exporter.clock import CONFIRM, LEAP, SteadyClock
from outcome_exporter.units import DAY, HOUR, MINUTE, SECOND

START = 1_790_000_000 * SECOND


class Machine:
    """A system clock that can be set, and one that cannot."""

    def __init__(self):
        self.wall = START
        self.boot = 7 * SECOND
        self.clock = SteadyClock(lambda: self.wall, lambda: self.boot)

    def passes(self, nanoseconds, *, step=SECOND):
        """Time passes, and somebody looks at the clock now and then."""
        for _ in range(nanoseconds // step):
            self.wall += step
            self.boot += step
            self.clock()
        return self.clock()


@pytest.fixture
def machine():
    return Machine()


def test_it_follows_the_system(machine):
    assert machine.clock() == START
    assert machine.passes(HOUR) == START + HOUR
    machine.wall += 5 * SECOND
    assert machine.clock() == machine.wall, "small corrections are taken at once"


def test_a_leap_ahead_and_back_leaves_no_trace(machine):
    machine.wall += DAY
    assert machine.passes(MINUTE) == START + MINUTE
    machine.wall -= DAY
    assert machine.passes(MINUTE) == START + 2 * MINUTE == machine.wall


def test_a_leap_ahead_that_lasts_is_the_time(machine):
    machine.wall += DAY
    machine.passes(CONFIRM + SECOND)
    assert machine.clock() == machine.wall


def test_after_a_leap_back_it_goes_on_at_half_speed_until_it_is_right(machine):
    machine.passes(HOUR)
    before = machine.clock()
    machine.wall -= HOUR
    assert machine.clock() == before
    assert machine.passes(MINUTE) == before + MINUTE // 2
    assert machine.clock.ahead == HOUR - MINUTE // 2
    machine.passes(2 * HOUR)
    assert machine.clock() == machine.wall
    assert machine.clock.ahead == 0


def test_sleep_is_no_leap(machine):
    machine.wall += 8 * HOUR
    machine.boot += 8 * HOUR
    assert machine.clock() == START + 8 * HOUR


def test_it_goes_on_from_a_time_that_was_shown_before(machine):
    machine.clock.not_before(START + HOUR)
    assert machine.clock() == START + HOUR
    assert machine.passes(MINUTE) == START + HOUR + MINUTE // 2
    machine.clock.not_before(START)
    assert machine.clock() > START + HOUR


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20 * MINUTE), st.sampled_from([0, 0, 0, LEAP, DAY, -DAY, -SECOND, HOUR])
        ),
        max_size=30,
    )
)
def test_whatever_the_system_says_it_moves_on_with_the_time_that_passes(steps):
    machine = Machine()
    for passed, leap in steps:
        before = machine.clock()
        machine.boot += passed
        machine.wall += passed + leap
        now = machine.clock()
        assert now >= before + passed // 2, "it stands still"
        assert now <= max(before + passed, machine.wall), "it is ahead of everything"
