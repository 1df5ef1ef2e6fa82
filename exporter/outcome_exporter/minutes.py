"""Events that happened over a time, as events of minutes."""

from collections.abc import Iterator

from outcome_exporter.units import MINUTE


def spread(weight: int, began: int, ended: int, unit: int) -> Iterator[tuple[int, int]]:
    """Events of a time as (time, events) a minute, evenly and in multiples of `unit`.

    Args:
        weight: Events, in millionths; at least 0.
        began: Nanosecond after which they happened.
        ended: Nanosecond until which; an event at the end of a minute belongs to it.
        unit: What is not divided.
    """
    first, last = began // MINUTE, (ended - 1) // MINUTE
    done = 0
    for minute in range(first, last):
        end = (minute + 1) * MINUTE
        upto = weight * (end - began) // (ended - began) // unit * unit
        if upto > done:
            yield end - 1, upto - done
            done = upto
    if weight > done:
        yield ended - 1, weight - done
