"""When an alert tier fires, and who is blamed now, in PromQL: once, for rules and dashboards.

A rule reads the series of every exporter there is and keeps those apart; a panel reads those of
one. So how a series is read is an argument, and what is asked of it stands here: a panel that
shows an alert cannot disagree with it.
"""

from typing import Protocol

from outcome_exporter import series
from outcome_exporter.series import Family

CAUSE_WINDOWS = ("5m", "1h")
"""Who is blamed in the last five minutes, which is tested against history and says within seconds
what began; once they are over, who was in the last hour."""


class Read(Protocol):
    """How a series is read: a selector, or an expression that leaves its labels."""

    def __call__(self, family: Family, **matchers: str) -> str: ...


def firing(read: Read, target: str) -> str:
    """The burn rates of the long windows of the tiers that fire.

    A tier fires where both of its windows burn above its threshold and the long one holds enough
    events.

    Args:
        read: How series are read.
        target: Labels that tell an SLO of one exporter from all others, `slo` included.
    """
    # Labels are rewritten of the thresholds alone: of them there are fewest.
    threshold = read(series.SLO_ALERT_THRESHOLD)
    burns = read(series.SLO_BURN_RATE)
    return f"""\
    (
        {burns}
      > on ({target}, window) group_right
        label_replace({threshold}, "window", "$1", "long_window", "(.+)")
    )
  and ignoring (window)
    (
        {burns}
      > on ({target}, window) group_right
        label_replace({threshold}, "window", "$1", "short_window", "(.+)")
    )
{with_enough_events(read, target)}"""


def with_enough_events(read: Read, target: str) -> str:
    """What follows burn rates, to keep those whose window holds enough events, and bad ones.

    `unless` lets rules that are newer than the exporter fire without a gate that it does not show
    yet.
    """
    return f"""\
  and on ({target}, window)
    (
        {read(series.SLO_WINDOW_EVENTS, result="bad")}
      >= on ({target}) group_left
        {read(series.SLO_ALERT_MIN_BAD)}
    )
  unless on ({target}, window)
    (
        sum by ({target}, window) ({read(series.SLO_WINDOW_EVENTS)})
      < on ({target}) group_left
        {read(series.SLO_ALERT_MIN)}
    )
"""


def causes(read: Read) -> str:
    """Who is blamed on a journey now, as shares of its bad outcomes."""
    now, before = (read(series.CAUSE_SHARE, window=window) for window in CAUSE_WINDOWS)
    return f"{now} or on (journey) {before}"
