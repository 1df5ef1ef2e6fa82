"""How requests fare: rate and errors on the left, duration on the right, wherever it is asked."""

from dataclasses import dataclass

from outcome_exporter import series
from outcome_exporter.dashboards import style
from outcome_exporter.dashboards.panels import NOTHING, Query, lines
from outcome_exporter.dashboards.promql import quantile, rate, ratio
from outcome_exporter.dashboards.sdk import dashboard


@dataclass(frozen=True, slots=True)
class Side:
    """One side of requests and messages."""

    kinds: str
    """Kinds of its spans, as a matcher."""
    verb: str


SERVED = Side("=~SPAN_KIND_SERVER|SPAN_KIND_CONSUMER", "served")
SENT = Side("=~SPAN_KIND_CLIENT|SPAN_KIND_PRODUCER", "sent")


def health(
    side: Side,
    service: str,
    *,
    by: str,
    titles: tuple[str, str, str],
    widths: tuple[int, int, int] = (6, 6, 12),
    note: str = "",
    nothing: str = NOTHING,
) -> list[dashboard.Panel]:
    """Rate, errors and duration of the requests that services serve or send.

    Args:
        side: Whether they serve or send them.
        service: Which services, as a matcher.
        by: The label that lines stand for: services or operations.
        titles: One for each panel.
        widths: Likewise, in columns of the grid.
        note: What is to be known besides.
        nothing: What is said in place of no data.
    """
    of = {"service_name": service, "span_kind": side.kinds}
    calls = rate(series.SPAN_CALLS, by, **of)
    errors = rate(series.SPAN_CALLS, by, **of, status_code="STATUS_CODE_ERROR")
    grouped = {"service_name": "by service", "span_name": "by operation"}[by]
    what = f"requests and messages {side.verb}"
    panels = (
        (f"{what.capitalize()} per second, {grouped}.", calls, style.REQUESTS_PER_SECOND, None),
        (
            f"Share of the {what} that ended with an error, {grouped}.",
            ratio(errors, calls),
            style.PERCENT,
            1,
        ),
        (
            f"Nineteen of twenty {what} take less than this, {grouped}.",
            quantile(0.95, series.SPAN_DURATION, by, **of),
            style.SECONDS,
            None,
        ),
    )
    return [
        lines(
            title,
            f"{description} {note}".strip(),
            [Query(expr, f"{{{{{by}}}}}")],
            width=width,
            unit=unit,
            decimals=decimals,
            nothing=nothing,
        )
        for title, width, (description, expr, unit, decimals) in zip(
            titles, widths, panels, strict=True
        )
    ]
