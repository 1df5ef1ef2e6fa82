"""The system's clock, without its leaps.

The log's arrival times, and with them every verdict, follow this clock, which must neither go back
nor take a leap for time that passed: a leap a day ahead would settle everything that waits, and
after the leap back nothing would settle for a day.

- A leap ahead is not believed before it has lasted for `CONFIRM`; until then time goes on as it
  really passed, by the clock that counts since boot, sleep included.
- Where the system's clock is behind, as after a leap back, time goes on at half its speed until it
  has been caught up with: it never stands still, and ends up right.
"""

import threading
import time
from collections.abc import Callable

from outcome_exporter.units import MINUTE

LEAP = MINUTE
"""What is ahead by less is a correction, and is taken at once."""
CONFIRM = 5 * MINUTE


class SteadyClock:
    """Nanoseconds since 1970; thread-safe."""

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        since_boot: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        """Begins at the system's time.

        Args:
            wall: The system's clock, which may leap.
            since_boot: A clock that cannot be set.
        """
        self._wall = wall
        self._since_boot = since_boot
        self._lock = threading.Lock()
        self._boot = since_boot()
        self._now = wall()
        self._leapt: int | None = None
        """When the system's clock leapt ahead, by the clock since boot."""

    def __call__(self) -> int:
        """Nanoseconds since 1970; never less than before."""
        with self._lock:
            wall, boot = self._wall(), self._since_boot()
            passed = boot - self._boot
            self._boot = boot
            if wall < self._now + passed:
                self._now = max(wall, self._now + passed // 2)
                self._leapt = None
            elif wall <= self._now + passed + LEAP or self._lasted():
                self._now = wall
                self._leapt = None
            else:
                self._now += passed
            return self._now

    def not_before(self, unix_nano: int) -> None:
        """Goes on from a time that was shown before, where the system's clock is behind it."""
        with self._lock:
            self._now = max(self._now, unix_nano)

    @property
    def ahead(self) -> int:
        """Nanoseconds by which it is ahead of the system's clock; negative: behind."""
        return self._now - self._wall()

    def _lasted(self) -> bool:
        if self._leapt is None:
            self._leapt = self._boot
        return self._boot - self._leapt >= CONFIRM
