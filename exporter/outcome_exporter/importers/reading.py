"""What the readers of all formats share: documents whose keys are taken out, names, durations."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from outcome_exporter import units
from outcome_exporter.importers.queries import NoCount, events_of, minutes_of
from outcome_exporter.promql import counts_every_bucket

_NO_NAME = re.compile(r"[^a-zA-Z0-9_-]+")
_NAME_MAX = 63
_TEXT_MAX = 1000
_OWNERS = ("owner", "team", "owning_team", "pyrra.dev/owner", "pyrra.dev/team")
_RUNBOOKS = ("runbook", "runbook_url", "runbookurl")
_LONG = {"M": 30 * units.DAY, "Q": 90 * units.DAY, "Y": 365 * units.DAY}


class Note(NamedTuple):
    """Something that could not be carried over."""

    slo: str
    """Empty where it concerns none in particular."""
    path: str
    """Key in the file."""
    what: str
    why: str

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.slo, self.path) if part)
        return f"{where}: {self.what}: {self.why}" if where else f"{self.what}: {self.why}"


class Left(Exception):
    """An SLO that cannot be carried over at all."""

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        super().__init__(why)


class Document(NamedTuple):
    """One document of a file."""

    file: str
    data: dict[str, Any]


@dataclass
class Found:
    """What the documents hold."""

    slos: list[dict[str, Any]] = field(default_factory=list)
    """As our configuration has them."""
    notes: list[Note] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    """Of Prometheus."""


class Node:
    """A mapping whose keys are taken out; what nobody took is left."""

    def __init__(self, data: object, path: str = "") -> None:
        self.path = path
        self.data: dict[str, Any] = data if isinstance(data, dict) else {}
        self._taken: set[str] = set()
        self._children: dict[str, Node] = {}

    def take(self, key: str) -> Any:  # noqa: ANN401 - whatever YAML holds
        """A value; None where there is none."""
        self._taken.add(key)
        return self.data.get(key)

    def text(self, key: str) -> str:
        """A value as text; empty where there is none."""
        value = self.take(key)
        if isinstance(value, list):
            return ", ".join(str(one) for one in value)
        return "" if value is None else str(value).strip()

    def node(self, key: str) -> "Node":
        """A mapping; an empty one where there is none."""
        return self._child(self.take(key), self._place(key))

    def nodes(self, key: str) -> "list[Node]":
        """A list of mappings."""
        values = self.take(key)
        return [
            self._child(value, f"{self._place(key)}[{at}]")
            for at, value in enumerate(values if isinstance(values, list) else [])
        ]

    def merged(self, key: str) -> "Node":
        """A mapping, which may be written as a list of mappings."""
        value = self.take(key)
        parts = value if isinstance(value, list) else [value]
        whole = {k: v for part in parts if isinstance(part, dict) for k, v in part.items()}
        return self._child(whole, self._place(key))

    def _child(self, value: object, path: str) -> "Node":
        # Asked for twice it is the same, so that what was taken stays taken.
        return self._children.setdefault(path, Node(value, path))

    def _place(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def left(self) -> Iterator[str]:
        """Paths of what was not taken."""
        for key, value in self.data.items():
            if key not in self._taken and value not in (None, "", [], {}):
                yield self._place(key)
        for child in self._children.values():
            yield from child.left()

    def __bool__(self) -> bool:
        return bool(self.data)


def name_of(*parts: str) -> str:
    """A name of ours from texts of theirs."""
    text = _NO_NAME.sub("-", "-".join(part for part in parts if part)).strip("-")
    if not text[:1].isalpha():
        text = f"slo-{text}"
    return text[:_NAME_MAX].rstrip("-")


def named(found: Found, *parts: str) -> str:
    """The same, with a note where it is another name than theirs."""
    name, theirs = name_of(*parts), "-".join(part for part in parts if part)
    if name != theirs:
        why = f"names are letters, digits, - and _, a letter first, at most {_NAME_MAX}"
        found.notes.append(Note(name, "", f"is called {theirs!r} there", why))
    return name


def duration_of(text: str) -> int | None:
    """Nanoseconds of a duration like 28d, or 1M, 1Q and 1Y, which have no exact length."""
    number, unit = text[:-1], text[-1:]
    if unit in _LONG and number.isdecimal():
        return int(number) * _LONG[unit]
    try:
        return units.parse_duration(text)
    except ValueError:
        return None


def owner_of(labels: Node) -> str:
    """Whose an SLO is, by its labels."""
    owners = (labels.text(key) for key in _OWNERS if key in labels.data)
    return next((owner for owner in owners if owner), "")


def runbook_of(annotations: Node) -> str:
    """Where to read on, by annotations of an alert."""
    for key in _RUNBOOKS:
        if str(annotations.data.get(key, "")).startswith(("https://", "http://")):
            return annotations.text(key)
    return ""


def about(found: Found, slo: dict[str, Any], *, title: str, owner: str, runbook: str) -> None:
    """Adds what is known about an SLO."""
    for key, value in (("title", " ".join(title.split())), ("owner", owner), ("runbook", runbook)):
        if value:
            slo[key] = value[:_TEXT_MAX]
        if len(value) > _TEXT_MAX:
            why = f"at most {_TEXT_MAX} characters are kept"
            found.notes.append(Note(slo["name"], key, "is cut", why))


def leftovers(found: Found, name: str, node: Node) -> None:
    """Notes on the keys that nobody took."""
    found.notes += [
        Note(name, path, "is not carried over", "there is no place for it here")
        for path in node.left()
    ]


def prometheus(
    found: Found,
    name: str,
    path: str,
    is_good: bool,  # noqa: FBT001
    part: str,
    total: str,
    *,
    counter: bool = False,
) -> dict[str, Any]:
    """An SLI of ours from two queries; notes where they are not exact.

    Raises:
        Left: They give no events.
    """
    sli, notes = {}, []
    for key, query in (("good" if is_good else "bad", part), ("total", total)):
        try:
            events = events_of(query, counter=counter)
        except NoCount as error:
            raise Left(path, str(error)) from None
        if counts_every_bucket(events.query):
            why = f"{events.query} counts an event once for every bucket that holds it; name one le"
            raise Left(path, why)
        sli[key] = events.query
        if events.why:
            notes.append(
                Note(
                    name,
                    f"{path} ({key})",
                    "is evaluated by Prometheus each minute, which extrapolates",
                    f"{events.why}, and only those are read sample by sample",
                )
            )
        if events.offset:
            why = "events are counted in the minute in which they happened"
            notes.append(Note(name, f"{path} ({key})", f"{events.offset} is left out", why))
    found.notes += notes
    return {"prometheus": sli}


def minutes(found: Found, name: str, path: str, query: str, *, is_good: bool) -> dict[str, Any]:
    """An SLI of ours from a ratio that says no number of events.

    Raises:
        Left: It cannot be evaluated here.
    """
    try:
        part, total = minutes_of(query)
    except NoCount as error:
        raise Left(path, str(error)) from None
    what = "each minute of each of its series is an event, as good as the ratio says"
    found.notes.append(Note(name, path, what, "a ratio says no number of events"))
    return {"prometheus": {"good" if is_good else "bad": part, "total": total}}
