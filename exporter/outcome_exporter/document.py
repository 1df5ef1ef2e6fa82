"""Reads one YAML file as plain data, strictly, and remembers the line of every value.

Stricter than YAML: one document, no duplicate keys, no merge keys, no tags, keys are text.
Scalars are read as in the core schema of YAML 1.2, decimal numbers only: `no`, `on`, `1:30`,
`0644` and `2024-01-01` stay text, where PyYAML makes of them booleans, numbers to the base of 60
or 8, and a date. Aliases work, but size, depth and the number of values after expansion are
bounded, so that a hostile or mistaken file costs a second at most.

A path is what problems name: ``journeys[0].slos[1].objective``, and
``attributes["http.route"]`` where a key is no plain word.
"""

import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from outcome_exporter.errors import ConfigError, Problem

FILE_BYTES_MAX = 1 << 20
VALUES_MAX = 50_000
DEPTH_MAX = 32

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TAG = "tag:yaml.org,2002:"
_SCALARS = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str")}


@dataclass(frozen=True)
class Document:
    """What a file says, and where."""

    data: object
    lines: dict[str, int] = field(default_factory=dict)
    """Path → line, from 1."""
    texts: dict[str, str] = field(default_factory=dict)
    """Path of a scalar → its text as the file has it."""

    def line(self, path: str) -> int:
        """Line of a path, or of the nearest value around it; 0 where the file is empty."""
        while path not in self.lines and path:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, 0)


def child(path: str, part: str | int) -> str:
    """Path of an entry of the value at `path`."""
    if isinstance(part, int):
        return f"{path}[{part}]"
    if not _PLAIN_KEY.fullmatch(part):
        return f'{path}["{part}"]'
    return f"{path}.{part}" if path else part


def read(path: Path) -> Document:
    """The document in a file.

    Raises:
        ConfigError: It cannot be read, or is not the YAML described above.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(
            str(path),
            [Problem("", f"cannot be read: {why}", "check the path and its permissions")],
        ) from error
    return parse(content, file=str(path))


def parse(content: bytes, *, file: str) -> Document:
    """The document in the bytes of a file; `file` names it in errors.

    Raises:
        ConfigError: It is not the YAML described above.
    """
    with _named(file):
        return _parse(content)


def parse_all(content: bytes, *, file: str) -> list[Document]:
    """The documents in the bytes of a file, which may be several or none.

    Raises:
        ConfigError: It is not the YAML described above.
    """
    with _named(file):
        return _parse_all(content)


@contextmanager
def _named(file: str) -> Iterator[None]:
    try:
        yield
    except _Stop as stop:
        raise ConfigError(file, stop.problems) from stop.__cause__


class _Stop(Exception):
    def __init__(self, *problems: Problem) -> None:
        self.problems = list(problems)


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads scalars as said above."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # filled below, where the base class looks


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?",
        list("-+.0123456789"),
    ),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"(?:{_pattern})\Z"), _first)


def _parse(content: bytes) -> Document:
    loader, text = _loader(content)
    with _refusals(text):
        node = loader.get_node() if loader.check_node() else None
        if node is not None and loader.check_node():
            line = loader.get_mark().line + 1
            remedy = "keep one, without `---` between"
            raise _Stop(Problem("", "holds more than one document", remedy, line=line))
    if node is None:
        remedy = "describe a journey; examples/minimal.yaml is a beginning"
        raise _Stop(Problem("", "is empty", remedy))
    return _document(loader, node)


def _parse_all(content: bytes) -> list[Document]:
    loader, text = _loader(content)
    documents: list[Document] = []
    while True:
        with _refusals(text):
            if not loader.check_node():
                return documents
            node = loader.get_node()
        assert node is not None
        documents.append(_document(loader, node))


def _loader(content: bytes) -> tuple[_Loader, str]:
    if len(content) > FILE_BYTES_MAX:
        raise _Stop(Problem("", f"is larger than {FILE_BYTES_MAX >> 20} MiB", "split it"))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Stop(Problem("", "is not UTF-8 text", "save it as UTF-8", line=line)) from error
    with _refusals(text):
        return _Loader(text), text


@contextmanager
def _refusals(text: str) -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise _Stop(_too_deep(0)) from error
    except yaml.YAMLError as error:
        raise _Stop(_no_yaml(error, text)) from error


def _document(loader: _Loader, node: yaml.Node) -> Document:
    reader = _Reader(loader)
    data = reader.value(node, "", 0)
    if reader.problems:
        raise _Stop(*sorted(reader.problems, key=lambda problem: problem.line))
    return Document(data, reader.lines, reader.texts)


def _no_yaml(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line = error.problem_mark.line + 1
        why = ", ".join(part for part in (error.context, error.problem) if part)
    else:
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        why = f"the character U+{ord(text[position : position + 1] or '?'):04X} is not allowed"
    tabs = "'\\t'" in why
    remedy = "indent with spaces, not tabs" if tabs else "check indentation, colons and quotes"
    return Problem("", f"is not valid YAML: {why}", remedy, line=line)


def _too_deep(line: int) -> Problem:
    return Problem("", f"is nested deeper than {DEPTH_MAX} levels", "flatten it", line=line)


class _Reader:
    """Turns YAML's nodes into data; collects what is wrong, stops at what is without bounds."""

    def __init__(self, loader: _Loader) -> None:
        self.loader = loader
        self.lines: dict[str, int] = {}
        self.texts: dict[str, str] = {}
        self.problems: list[Problem] = []
        self.values = 0

    def value(self, node: yaml.Node, path: str, depth: int) -> object:
        line = self.lines.setdefault(path, node.start_mark.line + 1)
        self.values += 1
        if depth > DEPTH_MAX:
            raise _Stop(_too_deep(line))
        if self.values > VALUES_MAX:
            raise _Stop(
                Problem("", f"expands to more than {VALUES_MAX} values", "use fewer aliases")
            )
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [
                self.value(entry, child(path, index), depth + 1)
                for index, entry in enumerate(node.value)
            ]
        if isinstance(node, yaml.ScalarNode):
            self.texts[path] = node.value
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._key(key_node, path)
            if key is None:
                continue
            at = child(path, key)
            if key in found:
                remedy = "keep one of them"
                problem = f"stands here twice, first in line {self.lines[at]}"
                self.problems.append(Problem(at, problem, remedy, line=line))
                continue
            self.lines.setdefault(at, line)
            found[key] = self.value(value_node, at, depth + 1)
        return found

    def _key(self, node: yaml.Node, path: str) -> str | None:
        key = self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None
        if isinstance(key, str) and key != "<<":
            return key
        line = node.start_mark.line + 1
        if key == "<<":
            problem, remedy = "merge keys (<<) are not supported", "write the keys out"
        elif isinstance(node, yaml.ScalarNode):
            problem, remedy = (
                f"the key {node.value} is no text",
                f'put it in quotes: "{node.value}"',
            )
        else:
            problem, remedy = "a key is a list or a mapping", "keys are text"
        self.problems.append(Problem(path, problem, remedy, line=line))
        return None

    def _scalar(self, node: yaml.Node, path: str) -> Hashable:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
            tag = node.tag.replace(_TAG, "!!")
            problem = Problem(path, f"the tag {tag} is not supported", "leave it out", line=line)
            self.problems.append(problem)
            return None
        try:
            value: Hashable = self.loader.construct_object(node)
        except (ValueError, KeyError):
            # An explicit tag that does not fit, or a number of thousands of digits.
            kind = node.tag.removeprefix(_TAG)
            shown = node.value[:40]
            problem = Problem(path, f"{shown} is no {kind}", "write it plainly", line=line)
            self.problems.append(problem)
            return None
        return value
