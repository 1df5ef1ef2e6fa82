"""What was read from Prometheus, counted once.

State: of each SLO, the minutes that have been read: one stretch that grows at its end as time goes
on, and at its beginning as history is filled in. Input: `Polled`, from the log. Output: VERDICT
rows. A poll that overlaps what has been read already is left out as a whole and counted, so that
neither a second poller nor a second backfill counts anything twice. An SLO that reads something
else from now on goes on from there: what was counted stays counted, as every SLO's past does. So
does one that was counted by metrics or a journey before: those minutes are taken as read.
"""

import json

import numpy as np

from outcome_exporter.errors import DecodeError
from outcome_exporter.model import VERDICT, Polled, Table
from outcome_exporter.plan import Arrays, Moved, Plan
from outcome_exporter.units import MINUTE

_UNREAD = -1


class PolledSlis:
    """The stage's state."""

    def __init__(self, plan: Plan) -> None:
        """Nothing was read."""
        self._plan = plan
        self.slos = tuple(
            (number, slo) for number, slo in plan.standalone() if slo.sli.prometheus is not None
        )
        """Numbers of the SLOs that are read from Prometheus."""
        self._covered = np.full((len(plan.slos), 2), _UNREAD, np.int64)
        self.births = np.zeros(len(plan.slos), np.int64)
        """Series of old processes that were found only now; their first sample is not counted."""
        self.duplicates = 0

    def covered(self, slo: int) -> tuple[int, int] | None:
        """The minutes that were read, from the first on, before the second."""
        first, end = self._covered[slo].tolist()
        return None if first == _UNREAD else (first, end)

    def skip(self, slo: int, first: int, end: int) -> None:
        """Takes minutes as read that were counted otherwise, from first on, before end."""
        known = self.covered(slo) or (first, end)
        self._covered[slo] = min(first, known[0]), max(end, known[1])

    def take(self, polled: Polled) -> Table:
        """VERDICT rows of a poll; none of an SLO that is gone or reads something else now."""
        for number, slo in self.slos:
            if slo.name == polled.slo and int(self._plan.salts[number]) == polled.sli:
                return self._take(number, polled)
        return np.empty(0, VERDICT)

    def _take(self, number: int, polled: Polled) -> Table:
        first, end = self.covered(number) or (polled.first, polled.first)
        if polled.first < end and first < polled.end:
            self.duplicates += 1
            return np.empty(0, VERDICT)
        self._covered[number] = min(first, polled.first), max(end, polled.end)
        self.births[number] += polled.births
        rows = np.zeros((len(polled.counts), 2), VERDICT)
        for pair, (minute, *weights) in zip(rows, polled.counts, strict=True):
            pair["slo"], pair["time"] = number, (minute + 1) * MINUTE - 1
            pair["weight"], pair["bad"] = weights, (0, 1)
        flat: Table = rows.ravel()
        return flat[flat["weight"] > 0]

    # Checkpoints

    def dump(self) -> Arrays:
        """What a checkpoint keeps."""
        return {
            "covered": self._covered,
            "births": self.births,
            "duplicates": np.array([self.duplicates], np.int64),
        }

    def restore(self, arrays: Arrays, moved: Moved) -> None:
        """Takes over what `dump` gave."""
        self.duplicates = int(arrays["duplicates"][0])
        for old, new in enumerate(moved.slos.tolist()):
            if new >= 0:
                self._covered[new] = arrays["covered"][old]
                self.births[new] = arrays["births"][old]


def decode_polled(payload: bytes) -> Polled:
    """A poll as the log keeps it.

    Raises:
        DecodeError: It is none.
    """
    try:
        found = json.loads(payload)
        counts = tuple((minute, good, bad) for minute, good, bad in found.pop("counts"))
        return Polled(**found, counts=counts)
    except (ValueError, TypeError, KeyError) as error:
        raise DecodeError(f"no poll: {error}") from None


def encode_polled(polled: Polled) -> bytes:
    """A poll as the log keeps it."""
    return json.dumps(polled._asdict(), separators=(",", ":")).encode()
