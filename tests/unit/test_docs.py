"""The pages keep what they say: links lead somewhere, commands parse, configurations work."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

from outcome_exporter import check, cli

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for place in ("*.md", "docs/**/*.md", "examples/**/*.md", "exporter/*.md", "helm/*/README.md")
    for page in ROOT.glob(place)
)
_LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)[^)]*\)")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"\s+#.*$")


def blocks(page, *languages):
    text = page.read_text(encoding="utf-8")
    return [body for language, body in _BLOCK.findall(text) if language in languages]


def commands(page, program):
    """Arguments of every line that runs a program, in blocks and between backticks."""
    joined = [body.replace("\\\n", " ") for body in blocks(page, "console", "sh", "shell")]
    lines = [_COMMENT.sub("", line) for body in joined for line in body.splitlines()]
    prose = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    lines += re.findall(rf"`({program} [^`|…]+)`", prose)
    return [line.split(None, 1)[1] for line in lines if line.strip().startswith(f"{program} ")]


def parse(arguments):
    """Parses a command line as the program would, and runs nothing."""
    command = typer.main.get_command(cli.app)
    context = command.make_context("outcome-exporter", list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        name, command, arguments = command.resolve_command(context, rest)
        context = command.make_context(name, list(arguments), parent=context)


def named(cases):
    return [
        pytest.param(page, case, id=f"{page.relative_to(ROOT)}: {str(case)[:60]}")
        for page, case in cases
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    links = _LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    ("page", "line"),
    named((page, line) for page in PAGES for line in commands(page, "outcome-exporter")),
)
def test_every_command_is_one_that_the_program_takes(page, line):
    parse(shlex.split(line))


def test_a_command_that_the_program_does_not_take_is_noticed():
    for line in ("serv", "check --confg x", "generate rulez", "generate rules --config a -o b --x"):
        with pytest.raises(Exception, match=r"No such (command|option)"):
            parse(line.split())


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = {line.split()[0] for page in PAGES for line in commands(page, "make")}
    assert said
    assert said <= targets


def configurations():
    for page in PAGES:
        for body in blocks(page, "yaml"):
            found = yaml.safe_load(body)
            if isinstance(found, dict) and isinstance(found.get("config"), dict):
                found = found["config"]  # values of the chart
            if isinstance(found, dict) and "journeys" in found:
                yield page, found


@pytest.mark.parametrize(("page", "configuration"), named(configurations()))
def test_every_configuration_works(page, configuration, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(configuration, allow_unicode=True))
    assert check.load(file).config.journeys
