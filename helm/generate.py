"""Writes what follows from the chart's values: its README's table and values.schema.json.

    python helm/generate.py [--check]

The text behind `# --` above a value is its description, in both. `config` has the schema of the
exporter's own configuration, so that a mistake there is refused by `helm install`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "outcome-exporter"
_KEY = re.compile(r"^( *)([A-Za-z][\w-]*):")
_CHOICES = {
    "configReload": ["watch", "checksum"],
    "listenHost": ["0.0.0.0", "[::]"],  # noqa: S104  # a choice
    "logFormat": ["text", "json"],
    "image.pullPolicy": ["Always", "IfNotPresent", "Never"],
    "persistence.whenDeleted": ["Retain", "Delete"],
    "service.type": ["ClusterIP", "NodePort", "LoadBalancer"],
    "serviceMonitor.scheme": ["", "http", "https"],
}
_FREE = {"prometheusRule.severity", "prometheusRule.for", "prometheusRule.labels"}
"""Maps whose values are texts under any name."""
_SCALARS: dict[type, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": 1},
    str: {"type": "string"},
    list: {"type": "array"},
}
_TEXTS = re.compile(r"(labels|annotations|Labels|Annotations|matchLabels)$")


def descriptions(text: str) -> dict[str, str]:
    """Path of a value → the text above it."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    pending: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            pending = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and pending:
            pending.append(stripped.removeprefix("# "))
        elif match := _KEY.match(line):
            indent = len(match[1])
            path = [*(each for each in path if each[0] < indent), (indent, match[2])]
            if pending:
                found[".".join(name for _, name in path)] = " ".join(pending)
            pending = []
        else:
            pending = []
    return found


def schema_of(value: Any, path: str, told: dict[str, str]) -> dict[str, Any]:
    """JSON Schema of a value, from its default."""
    schema: dict[str, Any] = {"description": told[path]} if path in told else {}
    if path in _CHOICES:
        return schema | {"enum": _CHOICES[path]}
    if not isinstance(value, dict):
        return schema | _SCALARS[type(value)]
    if path in _FREE or _TEXTS.search(path):
        return schema | {"type": "object", "additionalProperties": {"type": "string"}}
    if not value or path.endswith(("ecurityContext", "resources", "instanceSelector")):
        return schema | {"type": "object"}
    return schema | {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: schema_of(each, f"{path}.{name}".removeprefix("."), told)
            for name, each in value.items()
        },
    }


def values_schema(values: dict[str, Any], told: dict[str, str]) -> str:
    """The whole schema, of draft 7, which every Helm 3 reads.

    References into the configuration's own definitions lead to where they stand here.
    """
    schema = schema_of(values, "", told)
    config = json.loads(_exporter("schema").replace('"#/$defs/', '"#/definitions/'))
    definitions = config.pop("$defs")
    for key in ("$schema", "title"):
        config.pop(key)
    for listener in ("Listener", "HttpListener"):
        definitions[listener].pop("required")  # the chart adds the address
    schema["properties"]["config"] = config
    # Subcharts and `global` belong to Helm.
    schema["properties"]["global"]["additionalProperties"] = True
    return _json(
        {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "definitions": definitions}
    )


def readme(values: dict[str, Any], told: dict[str, str], text: str) -> str:
    """The README with its table made anew."""
    rows = ["| value | default | what it does |", "| --- | --- | --- |"]
    for path, about in told.items():
        value: Any = values
        for name in path.split("."):
            value = value[name]
        default = json.dumps(value) if not isinstance(value, dict) or not value else "see the file"
        rows.append(f"| `{path}` | `{default}` | {about.replace('|', chr(92) + '|')} |")
    begin, end = "<!-- values -->\n", "<!-- /values -->"
    head, rest = text.split(begin)
    return head + begin + "\n".join(rows) + "\n" + end + rest.split(end)[1]


def _exporter(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "outcome_exporter", *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Exit code 1 where a file differs and `--check` was given."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    values, told = yaml.safe_load(text), descriptions(text)
    page = CHART / "README.md"
    wanted = {
        CHART / "values.schema.json": values_schema(values, told),
        page: readme(values, told, page.read_text(encoding="utf-8")),
    }
    differ = [file for file, new in wanted.items() if not file.exists() or file.read_text() != new]
    for file in differ:
        if "--check" in sys.argv[1:]:
            print(f"{file} differs from what `make chart` writes")
        else:
            file.write_text(wanted[file], encoding="utf-8")
    return int(bool(differ) and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
