"""Says in plain words, at a path, what pydantic found wrong with a configuration.

Pydantic's own messages speak of inputs, instances and the branches of unions; whoever writes a
configuration knows none of them. What a validator of ours says goes through as it is: its text
up to the first ``; `` is the problem, the rest the remedy.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from outcome_exporter.document import Document, child
from outcome_exporter.errors import Problem

SHOWN_MAX = 60
"""Characters of a wrong value that a message repeats."""

_Location = Sequence[str | int]


def problems(error: ValidationError, model: type[BaseModel], document: Document) -> list[Problem]:
    """Everything that keeps a document from being a `model`, in the order of the file."""
    found = [
        _problem(details, model, document)
        for details in error.errors(include_url=False)
        if not _follows(details)
    ]
    return sorted(found, key=lambda problem: problem.line)


def _follows(details: ErrorDetails) -> bool:
    """Whether a list counts as too short only because its entries are wrong."""
    return details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]


def _problem(details: ErrorDetails, model: type[BaseModel], document: Document) -> Problem:
    location = details["loc"]
    path = _path(location, document.data)
    if details["type"] == "missing":
        path = child(path, location[-1])
        words = _missing(location, model)
    elif details["type"] == "extra_forbidden":
        words = _unknown(location, model)
    else:
        words = _words(details, document.texts.get(path))
    return Problem(path, *words, line=document.line(path))


def _path(location: _Location, data: object) -> str:
    """Path of a location, without what pydantic adds to it: branches of unions, ``[key]``."""
    path = ""
    for part in location:
        entries = dict(enumerate(data)) if isinstance(data, list) else data
        if isinstance(entries, dict) and part in entries:
            data, path = entries[part], child(path, part)
    return path


def _fields(location: _Location, model: type[BaseModel]) -> dict[str | int, FieldInfo]:
    """Fields that may stand beside the last part of a location."""
    models = [model]
    for part in location[:-1]:
        fields = [known[part] for one in models if part in (known := _known(one))]
        if fields:
            models = [found for field in fields for found in _models(field.annotation)]
    return {name: field for one in models for name, field in _known(one).items()}


def _known(model: type[BaseModel]) -> dict[str | int, FieldInfo]:
    """Fields by the key that a file has."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: object) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _missing(location: _Location, model: type[BaseModel]) -> tuple[str, str]:
    key = str(location[-1])
    field = _fields(location, model).get(key)
    example = field.examples[0] if field is not None and field.examples else "…"
    return "is missing", f"add `{key}: {_flow(example)}`"


def _flow(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def _unknown(location: _Location, model: type[BaseModel]) -> tuple[str, str]:
    known = _fields(location, model)
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.6)
    if close:
        return "unknown key", f"did you mean `{close[0]}`?"
    return "unknown key", f"known here: {', '.join(names)}"


def _words(details: ErrorDetails, text: str | None) -> tuple[str, str]:
    """Problem and remedy of a value; `text` is how the file writes it, if it is a scalar."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if value is None or value == "":
        return "is empty", "fill it in or remove the key"
    if kind == "string_type" and text is not None:
        return f"must be text, not {shown(value)}", f'put it in quotes: "{text}"'
    if kind in _WORDS:
        return _WORDS[kind](shown(value), context)
    message = str(context["error"]) if kind == "value_error" else details["msg"]
    problem, _, remedy = message.partition("; ")
    return problem[:1].lower() + problem[1:], remedy


_Words = Callable[[str, dict[str, Any]], tuple[str, str]]


def _no_mapping(value: str, _: object) -> tuple[str, str]:
    return f"must be a mapping (key: value), not {value}", ""


def _no_list(value: str, _: object) -> tuple[str, str]:
    return f"must be a list, not {value}", "begin each entry with a dash"


def _no_choice(value: str, context: dict[str, Any]) -> tuple[str, str]:
    choices = context["expected"].replace("True", "true").replace("False", "false")
    remedy = "leave the key out instead" if value in ("true", "false") else ""
    return f"must be {choices}, not {value}", remedy


def _no_whole_number(value: str, _: object) -> tuple[str, str]:
    return f"must be a whole number, not {value}", ""


_WORDS: dict[str, _Words] = {
    "string_type": lambda value, _: (f"must be text, not {value}", ""),
    "string_too_long": lambda _, limit: (
        f"is longer than {limit['max_length']} characters",
        "shorten it",
    ),
    "model_type": _no_mapping,
    "dict_type": _no_mapping,
    "tuple_type": _no_list,
    "list_type": _no_list,
    "too_short": lambda _, limit: (f"needs at least {_entries(limit['min_length'])}", "add some"),
    "too_long": lambda _, limit: (f"takes at most {_entries(limit['max_length'])}", "remove some"),
    "literal_error": _no_choice,
    "int_type": _no_whole_number,
    "int_parsing": _no_whole_number,
    "int_parsing_size": _no_whole_number,
    "int_from_float": _no_whole_number,
    "greater_than_equal": lambda value, limit: (
        f"{value} is too small",
        f"use at least {limit['ge']}",
    ),
    "less_than_equal": lambda value, limit: (
        f"{value} is too large",
        f"use at most {limit['le']}",
    ),
}
"""By pydantic's type of error: problem and remedy of a wrong value, as shown, and its limits."""


def _entries(number: int) -> str:
    return "one entry" if number == 1 else f"{number} entries"


def shown(value: object) -> str:
    """A value as a message repeats it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value) if len(str(value)) <= SHOWN_MAX else f"{str(value)[:SHOWN_MAX]}…"
    return repr(text) if isinstance(value, str) else text
