"""The commands of the pages, run as they are written, or named here with why they are not.

In a network of their own, so that the ports that the pages name are free.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.programs import missing, require
from tests.unit.test_docs import PAGES, ROOT, blocks

NOT_RUN = {
    "make demo": "for a person to watch, five minutes; CI runs `make demo ARGS=--fast`, "
    "tests/e2e/test_demo.py the rest",
    "make test": "this is part of it",
    "make check": "CI runs each of its three parts",
    "make bench": "takes both cores for minutes, and measures nothing beside other tests",
    "helm install": "takes a cluster; tests/chart renders and validates the chart, and runs a pod",
}
READY_SECONDS = 240
"""The first start compiles."""

_SCRIPT = """
ip link set lo up
{commands}
kill -TERM $serving
wait $serving
"""
_WAIT = """
for _ in $(seq {tries}); do
  curl --silent --fail http://localhost:9464/readyz && break
  kill -0 $serving
  sleep 0.2
done
"""


def commands_of(body):
    """Commands of a block: lines that end in a backslash or within quotes go on."""
    command = ""
    for line in body.splitlines(keepends=True):
        command += line
        try:
            words = shlex.split(command, comments=True)
        except ValueError:
            continue
        if not command.endswith("\\\n"):
            if words:
                yield command.rstrip()
            command = ""
    assert not command, f"goes on without an end: {command}"


def told(page):
    found = [c for body in blocks(page, "console", "sh", "shell") for c in commands_of(body)]
    return {
        c: next((why for start, why in NOT_RUN.items() if c.startswith(start)), None) for c in found
    }


def files_of(page, folder):
    """What the page takes for granted in the reader's folder."""
    if page.name == "README.md" and page.parent == ROOT:
        (folder / "checkout.yaml").write_text(blocks(page, "yaml")[0])
    if page.parent.name == "gitops":
        (folder / "outcomes").mkdir()
        example = (ROOT / "examples" / "checkout.yaml").read_text()
        (folder / "outcomes" / "config.yaml").write_text(example)


def test_commands_are_told_apart():
    body = "one \\\n  more\ntwo 'a\nb'  # comment\n# only a comment\nthree\n"
    assert list(commands_of(body)) == ["one \\\n  more", "two 'a\nb'  # comment", "three"]


def test_no_reason_stands_for_a_command_that_is_gone():
    everything = [command for page in PAGES for command in told(page)]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in everything), start


@pytest.fixture
def network():
    """A command that gives a program a network of its own."""
    for name in ("ip", "curl"):
        require(name)
    alone = [require("unshare"), "--net"]
    tried = subprocess.run([*alone, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        missing(f"no network of its own: {tried.stderr.strip()}")
    return alone


def test_every_command_of_the_pages_works_as_it_is_written(network, tmp_path):
    lines = []
    # The README's comes first: it starts the exporter that the others talk to.
    for number, page in enumerate(sorted(PAGES, key=lambda page: page != ROOT / "README.md")):
        folder = tmp_path / str(number)
        folder.mkdir()
        files_of(page, folder)
        lines.append(f"cd {shlex.quote(str(folder))}")
        for command, why_not in told(page).items():
            if why_not is None and command.startswith("outcome-exporter serve"):
                lines += [f"{command} &", "serving=$!", _WAIT.format(tries=READY_SECONDS * 5)]
            elif why_not is None:
                lines.append(command)
    lines.append("curl --silent http://localhost:9464/metrics")
    script = "set -eux\n" + _SCRIPT.format(commands="\n".join(lines))
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*network, "bash", "-c", script],
        env={**os.environ, "PATH": places},
        capture_output=True,
        text=True,
        timeout=READY_SECONDS + 60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # What the instrumentation page sends is taken, and the exporter ends well.
    sent = sum("4318/events" in command for command in told(ROOT / "docs" / "instrumentation.md"))
    accepted = (
        r'^outcome_exporter_requests_total\{.*result="accepted".*signal="events".*\} '
        + re.escape(f"{sent:.1f}")
    )
    assert sent > 0
    assert re.search(f"{accepted}$", done.stdout, re.MULTILINE), done.stdout
    assert "stopped" in done.stderr
