"""What the demo shows: words, numbers and tables, for a terminal and for a file.

All numbers are the exporter's own, as series by name and labels: from `/metrics` when it runs as a
server, from a snapshot when it runs inside this process. Nothing here computes what the exporter
should have computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from outcome_exporter import series
from outcome_exporter.config import Config
from outcome_exporter.config.journeys import Journey
from outcome_exporter.demo.faults import Announcement
from outcome_exporter.demo.ledger import REASONS, Expected
from outcome_exporter.model import Histogram, Snapshot

_WIDTH = 100
_TOLERANCE = 1e-6
"""Counts and money are exact in the exporter; a double shows both to far below a millionth."""
_STYLES = {
    "ok": "green",
    "recovered": "yellow",
    "slow": "yellow",
    "missed": "bold red",
    "error": "red",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """The exporter's series at one moment."""

    values: Mapping[str, list[tuple[Mapping[str, str], float]]]
    """By the name of the series."""

    def total(self, name: str, **labels: str) -> float:
        """Sum over all series of a name that have these labels."""
        return sum(
            value
            for have, value in self.values.get(name, ())
            if all(have.get(key) == wanted for key, wanted in labels.items())
        )


def read_exposition(text: str) -> Reading:
    """The series in a scraped text."""
    values: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values.setdefault(sample.name, []).append((sample.labels, sample.value))
    return Reading(values)


def read_snapshot(snapshot: Snapshot) -> Reading:
    """The series in a snapshot; histograms are left out."""
    return Reading(
        {
            family.name: [
                (
                    dict(zip((*family.labels, *sample.extra), sample.labels, strict=True)),
                    sample.value,
                )
                for sample in samples
                if not isinstance(sample.value, Histogram)
            ]
            for family, samples in snapshot.items()
        }
    )


def console() -> Console:
    """A console for standard output, of a fixed width where that is no terminal."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=_WIDTH)


def introduce(out: Console, where: str) -> None:
    """Says in one minute what the product does and what will happen."""
    out.print(
        "[bold]A small web shop, and what its customers really go through[/bold]\n\n"
        "Six services run here, and people search, sign up and check out, about five times a "
        "second. The shop reports what any shop reports: [bold]traces[/bold] (what each request "
        'did) and [bold]business events[/bold] ("order 1042 was completed, 38.50 USD"). '
        "outcome-exporter joins the two and gives every customer's attempt a verdict:\n"
    )
    for reason, meaning in (
        ("ok", "it worked"),
        ("error", "it failed"),
        ("recovered", "it failed, then trying again worked: pain, but no money lost"),
        ("slow", "it worked, but took too long"),
        ("missed", "every request returned 200 OK, yet the order never came: a silent failure"),
    ):
        out.print(f"  [{_STYLES[reason]}]{reason:<10}[/] {meaning}")
    out.print(
        "\nFrom the verdicts it counts the money at risk and the [bold]error budget[/bold] left: "
        "how many bad outcomes the promise to customers still allows. [bold]Burn[/bold] is how "
        "fast that budget goes: 1 is just sustainable, above 1 it will not last.\n"
        "\nThree things will break on purpose.\n"
    )
    out.print(where)
    out.print()


def tell(out: Console, announcement: Announcement) -> None:
    """Says what happens, and what to look at next."""
    out.print(f"[bold cyan]{_clock(announcement.elapsed)}  {announcement.what}[/]")
    out.print(Padding(announcement.expect, (0, 0, 0, 6), expand=False))
    out.print()


def tables(config: Config, reading: Reading) -> Group:
    """Journeys with their verdicts and money, and SLOs with their budgets."""
    return Group(_journeys(config, reading), "", _slos(config, reading))


def lines(config: Config, reading: Reading, elapsed: float) -> Iterator[str]:
    """The same in a few plain lines, for where nothing can be drawn over."""
    at = _clock(elapsed)
    for journey in config.journeys:
        counts = ", ".join(
            f"{_count(reading, journey, reason)} {reason}" for reason in _reasons(journey)
        )
        money = ""
        if journey.value is not None:
            money = (
                f"; {_money(reading, journey, 'at_risk')} {journey.value.currency} at risk, "
                f"{_money(reading, journey, 'lost')} lost"
            )
        yield f"{at}  {journey.name}: {counts}{money}"
    burning = ", ".join(
        f"{slo.name} {_burn(reading, slo.name)} (budget left {_budget(reading, slo.name)})"
        for _, slo in config.slos
        if _burns(reading, slo.name)
    )
    yield f"{at}  burning: {burning or 'nothing'}"


def differences(expected: list[Expected], reading: Reading) -> list[Expected]:
    """What the exporter reads differently from the shop's own books."""
    return [row for row in expected if not _agrees(row, reading)]


def summarise(out: Console, expected: list[Expected], reading: Reading) -> bool:
    """Holds the exporter's numbers against the shop's own books.

    Returns:
        Whether they agree, every one of them.
    """
    table = Table(
        title="What the shop knows, and what the exporter counted", title_style="bold", box=None
    )
    table.add_column("")
    for column in ("shop", "exporter", ""):
        table.add_column(column, justify="right")
    for row in expected:
        counted = reading.total(row.name, **row.labels)
        if row.value or counted:
            mark = Text("=", "green") if _agrees(row, reading) else Text("differs", "bold red")
            table.add_row(_title(row), f"{row.value:,g}", f"{counted:,g}", mark)
    out.print(table)
    out.print()
    wrong = differences(expected, reading)
    if wrong:
        out.print(
            f"[bold red]{len(wrong)} of {len(expected)} numbers differ.[/] That must not be: "
            "please report it with this output."
        )
    else:
        out.print(
            f"[bold green]All {len(expected)} numbers agree[/] (zeros are not shown). Every "
            "attempt was counted exactly once, though events came before, after and twice, with "
            "and without a trace."
        )
    return not wrong


def explain_budget(out: Console) -> None:
    """Why a budget of 28 days may be overspent after five minutes."""
    out.print(
        "A budget far below zero is no mistake: it is a share of all attempts in 28 days, and this "
        "shop is only minutes old. Three bad spells in so short a life spend it several times."
    )


def _journeys(config: Config, reading: Reading) -> Table:
    table = Table(title="Journeys: what customers got", title_justify="left", box=None)
    table.add_column("journey")
    for reason in REASONS:
        table.add_column(reason, justify="right", style=_STYLES[reason])
    for column in ("undecided", "at risk", "lost"):
        table.add_column(column, justify="right")
    for journey in config.journeys:
        has = _reasons(journey)
        money = ("", "")
        if journey.value is not None:
            money = (_money(reading, journey, "at_risk"), _money(reading, journey, "lost"))
        table.add_row(
            journey.name,
            *(_count(reading, journey, reason) if reason in has else "·" for reason in REASONS),
            f"{reading.total(series.PENDING_ATTEMPTS.name, journey=journey.name):.0f}",
            *money,
        )
    return table


def _slos(config: Config, reading: Reading) -> Table:
    table = Table(title="SLOs: what customers were promised", title_justify="left", box=None)
    table.add_column("SLO")
    for column in ("promised", "last 5 min", "burn", "budget left"):
        table.add_column(column, justify="right")
    for _, slo in config.slos:
        table.add_row(
            slo.name,
            f"{slo.objective} %",
            _good(reading, slo.name),
            Text(_burn(reading, slo.name), "bold red" if _burns(reading, slo.name) else "green"),
            _budget(reading, slo.name),
        )
    return table


def _reasons(journey: Journey) -> tuple[str, ...]:
    """Those that the journey can have: with no event none is missed, with no span none fails."""
    if journey.attempt.span is None:
        return ("ok", "missed")
    return REASONS if journey.outcome is not None else ("ok", "slow", "error")


def _count(reading: Reading, journey: Journey, reason: str) -> str:
    return f"{reading.total(series.ATTEMPTS.name, journey=journey.name, reason=reason):.0f}"


def _money(reading: Reading, journey: Journey, state: str) -> str:
    return f"{reading.total(series.VALUE.name, journey=journey.name, state=state):,.2f}"


def _good(reading: Reading, slo: str) -> str:
    return f"{reading.total(series.SLO_SLI.name, slo=slo, window='5m'):.1%}".replace("%", " %")


def _burn(reading: Reading, slo: str) -> str:
    return f"{reading.total(series.SLO_BURN_RATE.name, slo=slo, window='5m'):.1f}"


def _burns(reading: Reading, slo: str) -> bool:
    return reading.total(series.SLO_BURN_RATE.name, slo=slo, window="5m") > 1


def _budget(reading: Reading, slo: str) -> str:
    left = reading.total(series.SLO_BUDGET_REMAINING.name, slo=slo)
    return f"{left:,.0%}".replace("%", " %")


def _agrees(row: Expected, reading: Reading) -> bool:
    return abs(reading.total(row.name, **row.labels) - row.value) < _TOLERANCE


def _title(row: Expected) -> str:
    labels = row.labels
    if row.name == series.ATTEMPTS.name:
        return f"{labels['journey']}: attempts that ended {labels['reason']}"
    if row.name == series.VALUE.name:
        state = labels["state"].replace("_", " ")
        return f"{labels['journey']}: {labels['currency']} {state}"
    return f"SLO {labels['slo']}: {labels['result']}"


def _clock(elapsed: float) -> str:
    minutes, seconds = divmod(int(elapsed), 60)
    return f"{minutes}:{seconds:02d}"
