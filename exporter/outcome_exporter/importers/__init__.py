"""Brings what a team already wrote, for Sloth, Pyrra or in OpenSLO, into our configuration.

    files ─▶ documents ─▶ SLOs of ours, and notes on what they cannot carry ─▶ check ─▶ YAML

Nothing is lost silently. A reader takes the keys that it understands out of a document, and each
one that is left over becomes a note by itself, so that a key nobody thought of is told as well.
An SLO that our `check` refuses is left out, and its problem is the note.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from outcome_exporter import check, config, document
from outcome_exporter.errors import ConfigError, Problem
from outcome_exporter.importers import openslo, pyrra, sloth
from outcome_exporter.importers.reading import Document, Found, Left, Note

FORMATS: Mapping[str, Callable[[list[Document]], Found]] = {
    "openslo": openslo.read,
    "sloth": sloth.read,
    "pyrra": pyrra.read,
}
DEFAULT_URL = "http://localhost:9090"


@dataclass
class Imported:
    """What came of some files."""

    text: str
    """Our configuration, as YAML."""
    slos: int
    notes: list[Note] = field(default_factory=list)
    """What could not be carried over, and why."""


class Source(NamedTuple):
    """One file."""

    name: str
    content: bytes


def run(kind: str, sources: list[Source], *, url: str | None = None) -> Imported:
    """Our configuration for the SLOs of some files.

    Args:
        kind: One of FORMATS.
        sources: Files, in an order that does not matter.
        url: Of the Prometheus; by default the one that the files name, if any.

    Raises:
        ConfigError: A file cannot be read as YAML.
    """
    documents = [one for source in sources for one in _documents(source)]
    found = FORMATS[kind](documents)
    if url is None and len(found.urls) > 1:
        found.notes.append(Note("", "", f"several Prometheus: {', '.join(found.urls)}", "one can"))
    url = url or next(iter(found.urls), DEFAULT_URL)
    slos = _working(found, url)
    text = yaml.safe_dump(
        _file(slos, url), sort_keys=False, allow_unicode=True, default_flow_style=False, width=100
    )
    return Imported(text, len(slos), found.notes)


def _documents(source: Source) -> Iterator[Document]:
    for at, one in enumerate(document.parse_all(source.content, file=source.name)):
        for data in one.data if isinstance(one.data, list) else [one.data]:
            if isinstance(data, dict):
                yield Document(source.name, data)
            elif data is not None:
                words = f"document {at + 1} is no mapping"
                problem = Problem("", words, "see the format's examples")
                raise ConfigError(source.name, [problem])


def _file(slos: list[dict[str, Any]], url: str) -> dict[str, Any]:
    return {"prometheus": {"url": url}, "slos": slos}


def _working(found: Found, url: str) -> list[dict[str, Any]]:
    """The SLOs that `check` does not refuse; notes about the others."""
    kept: list[dict[str, Any]] = []
    names: set[str] = set()
    for slo in found.slos:
        name = slo["name"]
        problems = list(_problems(_file([slo], url)))
        if name in names:
            problems = [Problem("name", f"another one is called {name!r} as well", "rename one")]
        if problems:
            found.notes += [
                Note(name, problem.path, "the whole SLO is left out", str(problem))
                for problem in problems
            ]
        else:
            names.add(name)
            kept.append(slo)
    return kept


def _problems(file: dict[str, Any]) -> Iterator[Problem]:
    try:
        configuration = config.validate(document.Document(file), file="")
    except ConfigError as error:
        yield from error.problems
        return
    yield from (one for one in check.check(configuration) if one.severity == "error")


def load(paths: list[Path]) -> list[Source]:
    """Files as sources.

    Raises:
        ConfigError: One cannot be read.
    """
    sources = []
    for path in paths:
        try:
            sources.append(Source(str(path), path.read_bytes()))
        except OSError as error:
            why = error.strerror or str(error)
            problem = Problem("", f"cannot be read: {why}", "check the path")
            raise ConfigError(str(path), [problem]) from None
    return sources


__all__ = ["FORMATS", "Imported", "Left", "Note", "Source", "load", "run"]
