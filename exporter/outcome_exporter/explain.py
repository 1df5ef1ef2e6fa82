"""`outcome-exporter explain`: why attempts were bad, asked of a running exporter, in words.

Names come from whoever sends spans: what would steer a terminal is written out, not sent to it.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from rich.console import Console
from rich.table import Table
from rich.text import Text

from outcome_exporter import words
from outcome_exporter.diagnostics import printable
from outcome_exporter.errors import ExplainError

_BAR = 30
_TIMEOUT_SECONDS = 30
_ALTERNATIVES = 5
_UNUSUAL = 2.5
_KINDS = {"error": "it failed", "latency": "it was slow", "missing": "it never came"}
# What is remembered is the reason of the first bad verdict: of an error it is not known yet whether
# an event still comes, so nothing is said of that.
_REASONS = {
    "error": "failed with an error",
    "missed": "looked fine, yet its business event never came: a silent failure",
    "recovered": "failed with an error, but its event came",
    "slow": "worked, but took too long",
    "ok": "was fine by itself, yet broke a promise",
}


def explain(console: Console, url: str, question: dict[str, str], token: str | None) -> None:
    """Asks and prints.

    Args:
        console: Where to.
        url: Of the exporter's metrics port.
        question: `trace_id`, or `journey` and `since`.
        token: Sent along, where the port asks for one.

    Raises:
        ExplainError: There is no answer; says what to do.
    """
    if "trace_id" in question:
        found = _ask(url, f"/explain/{quote(question['trace_id'], safe='')}", token)
        for attempt in found["attempts"]:
            _print_attempt(console, attempt)
        console.print(Text(found["trace_url"] or f"trace {found['trace_id']}", style="dim"))
    else:
        _print_journey(console, _ask(url, f"/explain?{urlencode(question)}", token))


def _ask(url: str, path: str, token: str | None) -> Any:  # noqa: ANN401 - JSON
    if not url.startswith(("http://", "https://")):
        raise ExplainError(f"{url}: no web address; write it like http://localhost:9464")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        request = Request(url.rstrip("/") + path, headers=headers)  # noqa: S310 - see above
        with urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310 - see above
            return _printable(json.load(response))
    except HTTPError as error:
        with error:
            why = error.read(1_000).decode(errors="replace").strip()
        if error.code == 401:  # noqa: PLR2004 - unauthorized
            why = "it wants a token; give --token-file FILE"
        raise ExplainError(f"{url}: {printable(why)}") from None
    except (OSError, ValueError, HTTPException) as error:
        why = printable(str(error.reason if isinstance(error, URLError) else error).strip())
        raise ExplainError(
            f"{url}: no exporter answers ({why}); give its metrics port with --url"
        ) from None


def _printable(found: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(found, dict):
        return {printable(name): _printable(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_printable(value) for value in found]
    return printable(found) if isinstance(found, str) else found


def _print_attempt(console: Console, attempt: dict[str, Any]) -> None:
    console.print(Text(f"{attempt['title']}: this attempt {_REASONS[attempt['reason']]}.", "bold"))
    value = attempt["value"]
    at_stake = "" if value is None else f"; {value:,.2f} {attempt['currency']} at stake"
    console.print(Text(f"Began {_moment(attempt['started'])}{at_stake}."))
    for sentence in verdict(attempt):
        console.print(Text(sentence))
    if attempt["path"]:
        console.print(_timeline(attempt))
    _print_lists(
        console,
        ("What bad attempts have in common now:", in_common(attempt)),
        ("What changed:", changed(attempt)),
        ("What else was looked at:", alternatives(attempt)),
        ("Its other resources:", other_resources(attempt)),
        ("Where the evidence is weak:", weaknesses(attempt)),
    )


def _print_lists(console: Console, *lists: tuple[str, Iterator[str]]) -> None:
    for head, sentences in lists:
        lines = list(sentences)
        if lines:
            console.print(Text(head, "bold"))
            for line in lines:
                console.print(Text(f"  {line}"))


def verdict(attempt: dict[str, Any]) -> Iterator[str]:
    """Who is blamed and how, with numbers against history."""
    cause = attempt["cause"]
    if cause["kind"] == "unattributed":
        yield "Blamed on nobody."
        return
    yield f"Blamed on {_name(cause)}: {_KINDS[cause['kind']]}."
    chosen = next((step for step in attempt["steps"] if step["chosen"]), None)
    if chosen is not None and cause["kind"] == "error" and chosen["usual_failures"] is not None:
        yield f"Usually {chosen['usual_failures']:.2%} of its calls fail."
    if chosen is not None and cause["kind"] == "latency" and chosen["usual_ms"] is not None:
        yield f"It took {_ms(chosen['ms'])} itself; usually {_ms(chosen['usual_ms'])}."
    if attempt["absent"]:
        yield f"It never reached {', '.join(map(_name, attempt['absent'][:_ALTERNATIVES]))}."
    for sentence in _resources(attempt, corroborate=True):
        yield f"{sentence[:1].upper()}{sentence[1:]}."


def other_resources(attempt: dict[str, Any]) -> Iterator[str]:
    """What is known of who is blamed, and does not speak for it."""
    yield from _resources(attempt, corroborate=False)


def _resources(attempt: dict[str, Any], *, corroborate: bool) -> Iterator[str]:
    for one in attempt["resources"]:
        if one["corroborates"] == corroborate:
            limited = one["limited"]
            yield words.resource(one["resource"], one["now"], one["usual"], limited=limited)


def in_common(found: dict[str, Any]) -> Iterator[str]:
    """Values that bad attempts at the journey have more often than good ones."""
    for one in found["suspects"]:
        where = f" of {one['service']}" if one["service"] else ""
        bad, good = one["bad"], one["good"]
        yield (
            f"{one['dimension']} {one['value']}{where}: "
            f"{'all' if bad == one['all_bad'] else bad} of {one['all_bad']} bad attempts, "
            f"{good or 'none'} of {one['all_good']} good ones "
            f"(last {one['minutes']} min)"
        )


def changed(found: dict[str, Any]) -> Iterator[str]:
    """Changes that may be to blame, and why."""
    for change in found["changes"]:
        what = f"{change['service']} {change['version']} ({change['kind']})"
        after = f" after {change['previous']}" if change["previous"] else ""
        when = f" came at {_moment(change['time'])}"
        seconds = change["seconds_before"]
        if seconds is not None and seconds >= 0:
            when = f" came {words.span(seconds)} before it began"
        yield f"{what}{after}{when}" + (
            "; bad attempts went through it more often than good ones"
            if change["why"] == "differs"
            else ""
        )


def alternatives(attempt: dict[str, Any]) -> Iterator[str]:
    """What was not blamed, and why not."""
    if attempt["cause"]["kind"] == "error":
        for span in attempt["path"]:
            if span["passed_on"]:
                yield f"{_name(span)} failed too, because something that it called had failed"
        for step in attempt["steps"]:
            if step["failures"] and not step["chosen"]:
                yield f"{_name(step)} failed too; the one blamed explains more of the last minutes"
        return
    others = [step for step in attempt["steps"] if not step["chosen"] and step["usual_ms"]]
    for step in others[:_ALTERNATIVES]:
        more = step["ms"] - step["usual_ms"]
        if more > 0:
            unusual = step["deviations"] > _UNUSUAL
            why = "unusual too, but less of the time lost" if unusual else "within what is usual"
            yield f"{_name(step)} took {_ms(more)} more than usual: {why}"


def weaknesses(attempt: dict[str, Any]) -> Iterator[str]:
    """What to doubt."""
    chosen = next((step for step in attempt["steps"] if step["chosen"]), None)
    if not attempt["path"]:
        yield (
            "its spans are not kept: it began with an event, its trace came in pieces, or other "
            "attempts took their place"
        )
    if attempt["left_out"]:
        yield f"{attempt['left_out']} of its spans are not shown"
    kind = attempt["cause"]["kind"]
    if kind == "unattributed" and attempt["path"]:
        known = any(step["usual_ms"] is not None for step in attempt["steps"])
        yield (
            "no step was unusual enough to explain it"
            if known
            else "nothing is known yet of how long its steps usually take"
        )
    if kind == "unattributed" and attempt["reason"] == "missed":
        yield "no span of it came, so it cannot be said how far it got"
    if kind in {"error", "latency"} and chosen is not None and chosen["usual_ms"] is None:
        yield "what is blamed has no history: whether this is unusual for it is not known"


def _timeline(attempt: dict[str, Any]) -> Table:
    """The critical path: when each span ran, and how long the user waited for it alone."""
    table = Table(box=None, pad_edge=False)
    table.add_column("critical path", overflow="fold")
    table.add_column("when", width=_BAR, no_wrap=True)
    table.add_column("of it own", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    whole = max(attempt["duration_ms"], 1e-6)
    for span in attempt["path"]:
        begin = min(max(span["start_ms"] / whole, 0.0), 1.0)
        end = min(max((span["start_ms"] + span["duration_ms"]) / whole, begin), 1.0)
        left = min(int(begin * _BAR), _BAR - 1)
        bar = " " * left + "━" * max(round(end * _BAR) - left, 1)
        style = "bold red" if span["chosen"] else "red" if span["failed"] else ""
        notes = ["failed"] * span["failed"] + ["◀ blamed"] * span["chosen"]
        table.add_row(
            Text("  " * min(span["depth"], 12) + _name(span), style),
            Text(bar, style),
            Text(_ms(span["own_ms"]), style),
            Text(" ".join(notes), style),
        )
    if attempt["cause"]["kind"] == "missing":
        table.add_row(Text(f"  {_name(attempt['cause'])}", "bold red"), "", "", "◀ never came")
    return table


def _print_journey(console: Console, found: dict[str, Any]) -> None:
    attempts = f"{found['bad']} bad attempt{'' if found['bad'] == 1 else 's'}"
    since = words.span(found["since_seconds"])
    console.print(Text(f"{found['journey']}: {attempts} in the last {since}.", "bold"))
    if found["forgotten_before"] is not None:
        moment = _moment(found["forgotten_before"])
        console.print(Text(f"Attempts before {moment} are forgotten (limits.explained).", "yellow"))
    elif found.get("remembered_from") is not None:  # an exporter of before does not say
        moment = _moment(found["remembered_from"])
        sentence = (
            f"Attempts before {moment} are not in this answer: with each start and reload of the "
            "exporter, remembering begins anew."
        )
        console.print(Text(sentence, "yellow"))
    for cause in found["causes"]:
        named = cause["cause"]
        who = "Nobody is blamed" if named["kind"] == "unattributed" else _name(named)
        how = f": {_KINDS[named['kind']]}" if named["kind"] in _KINDS else ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in cause["reasons"].items())
        console.print(Text(f"{cause['bad'] / found['bad']:.0%}  {who}{how} ({reasons})"))
        for trace_id in cause["examples"]:
            console.print(Text(f"      explain {trace_id}", "dim"))
    _print_lists(
        console,
        ("What bad attempts have in common now:", in_common(found)),
        ("What changed:", changed(found)),
    )


def _name(step: dict[str, Any]) -> str:
    names = (step["service"], step["operation"], step["version"])
    return " ".join(name for name in names if name) or "unknown"


def _ms(milliseconds: float) -> str:
    if milliseconds >= 999.5:  # noqa: PLR2004 - a second, of three digits
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.3g} ms"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
