"""Time and chance that can be made up: the shop is ordinary coroutines over a clock of its own.

A `World` holds tasks in a heap, ordered by the time at which each goes on. Whoever drives it takes
one step after the other, and may wait for the wall clock before each (then the shop runs live) or
not (then five minutes pass in a second). Neither changes what happens: order, durations and random
numbers are the same. asyncio was no choice, as its clock cannot be injected without private parts.

Times are whole microseconds in nanoseconds: CloudEvents carry no more, so that the shop's books and
what it sends are equal.
"""

import heapq
from collections.abc import Awaitable, Coroutine, Generator, Iterator
from random import Random
from types import coroutine
from typing import Any

from outcome_exporter.units import MICROSECOND, SECOND

Task = Coroutine[Any, None, None]


@coroutine
def _pause(nanoseconds: int) -> Generator[int, None, None]:
    yield nanoseconds


def pause(seconds: float) -> Awaitable[None]:
    """Lets time pass for the task that awaits it, and for nobody else."""
    return _pause(round(seconds * SECOND / MICROSECOND) * MICROSECOND)


class World:
    """Tasks, and the time and the chance they share.

    Args:
        start_unix_nano: When it begins.
        seed: Determines everything that is left to chance.
    """

    def __init__(self, start_unix_nano: int, *, seed: int) -> None:
        self._seed = seed
        self.start = start_unix_nano // MICROSECOND * MICROSECOND
        self.now = self.start
        self._tasks: list[tuple[int, int, Task]] = []
        self._spawned = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return (self.now - self.start) / SECOND

    def random(self, name: str) -> Random:
        """Chance for one purpose, which no other purpose disturbs."""
        return Random(f"{self._seed}/{name}")  # noqa: S311 - it has to be repeatable

    def spawn(self, task: Task) -> None:
        """Lets a task begin now, beside those that run."""
        self._push(self.now, task)

    def steps(self) -> Iterator[int]:
        """The times at which something happens, each before it does; ends when no task is left."""
        while self._tasks:
            yield self._tasks[0][0]
            self.now, _, task = heapq.heappop(self._tasks)
            try:
                nanoseconds = task.send(None)
            except StopIteration:
                continue
            self._push(self.now + nanoseconds, task)

    def close(self) -> None:
        """Ends every task where it stands."""
        while self._tasks:
            self._tasks.pop()[2].close()

    def _push(self, time: int, task: Task) -> None:
        # The running number breaks ties by age, so that the order never depends on anything else.
        self._spawned += 1
        heapq.heappush(self._tasks, (time, self._spawned, task))
