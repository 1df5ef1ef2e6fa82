"""What may be installed: exact versions with known hashes, from a registry, and nothing unneeded.

Whether any of it is known to be vulnerable is `make audit`'s to say, where it can.
"""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements.run.lock")
_PIN = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[\w.!+]+)(?: ; (?P<marker>[^\\]+?))?"
    r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)


def text(lock):
    return (ROOT / lock).read_text(encoding="utf-8")


def pins(lock):
    """(name, version) of each pin, and where it is wanted."""
    return {(pin["name"], pin["version"]): pin["marker"] for pin in _PIN.finditer(text(lock))}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_is_an_exact_version_with_hashes_and_names_no_place(lock):
    assert pins(lock)
    assert _PIN.sub("", text(lock)) == ""


def test_what_runs_is_part_of_what_is_developed_with():
    run, everything = (pins(lock).keys() for lock in reversed(LOCKS))
    assert run < everything


def needed():
    """Names of all that the program needs here, by what the packages say themselves."""
    project = tomllib.loads(text("pyproject.toml"))["project"]
    waiting = [Requirement(each) for each in project["dependencies"]]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            name = canonicalize_name(requirement.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            waiting += [
                each
                for each in map(Requirement, metadata.requires(name) or ())
                if each.marker is None or each.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in seen}


def test_what_runs_is_what_is_needed_and_nothing_else():
    here = {
        name
        for (name, _), marker in pins("requirements.run.lock").items()
        if marker is None or Marker(marker).evaluate()
    }
    assert here == needed()


def test_what_is_installed_is_what_is_locked():
    for (name, version), marker in pins("requirements.lock").items():
        if marker is None or Marker(marker).evaluate():
            assert Version(metadata.version(name)) == Version(version), name
