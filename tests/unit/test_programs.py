"""Looking for programs and installing them, on machines that are made up."""

import contextlib
import json
import os
import subprocess
import sys

import pytest
from tests import programs


class FakeMachine:
    """Has some commands; installing a package adds what the package brings."""

    def __init__(self, *commands, brings=None, is_root=True, fails=None):
        self.commands = set(commands)
        self.brings = brings or {}
        self.is_root = is_root
        self.fails = dict(fails or {})
        self.ran = []
        self.locked = False

    def which(self, command):
        return f"/bin/{command}" if command in self.commands else None

    def run(self, command, env):
        assert self.locked, "installs without the lock"
        self.ran.append((" ".join(command), env))
        for word, times in self.fails.items():
            if word in command and times:
                self.fails[word] -= 1
                return f"{word} failed"
        self.commands |= set(self.brings.get(command[-1], ()))
        return ""

    @contextlib.contextmanager
    def installing(self):
        self.locked = True
        yield
        self.locked = False


def said(machine):
    return [" ".join(word for word in line.split() if word[0] != "-") for line, _ in machine.ran]


def test_a_program_that_is_there_is_found_by_any_of_its_names():
    machine = FakeMachine("alertmanager")
    assert programs.find("alertmanager", machine) == "/bin/alertmanager"
    assert machine.ran == []


def test_root_installs_the_debian_package():
    machine = FakeMachine("apt-get", brings={"prometheus": ["prometheus", "promtool"]})
    assert programs.find("promtool", machine) == "/bin/promtool"
    assert said(machine) == ["apt-get DPkg::Lock::Timeout=300 install prometheus"]
    assert machine.ran[0][1] == {"DEBIAN_FRONTEND": "noninteractive"}


def test_package_lists_are_fetched_where_a_package_is_not_known():
    machine = FakeMachine("apt-get", brings={"chromium": ["chromium"]}, fails={"install": 1})
    assert programs.find("chromium", machine) == "/bin/chromium"
    assert [line.split()[2] for line in said(machine)] == ["install", "update", "install"]


def test_go_programs_are_built_into_the_cache():
    package = programs.PROGRAMS["helm"].go
    machine = FakeMachine("go", brings={package: ["helm"]}, is_root=False)
    assert programs.find("helm", machine) == "/bin/helm"
    [(line, env)] = machine.ran
    assert line == f"/bin/go install {package}"
    assert env["GOBIN"] == str(programs.CACHE / "bin")


def test_a_collector_is_generated_from_its_modules_and_built(monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "CACHE", tmp_path)
    binary, folder = str(tmp_path / "bin" / "otelcol"), tmp_path / "otelcol"
    brings = {programs.COLLECTOR_BUILDER: ["builder"], binary: ["otelcol"]}
    machine = FakeMachine("go", brings=brings, is_root=False)
    assert programs.find("otelcol", machine) == "/bin/otelcol"
    assert [line for line, _ in machine.ran] == [
        f"/bin/go install {programs.COLLECTOR_BUILDER}",
        f"/bin/builder --skip-compilation --config {folder}/manifest.yaml",
        f"/bin/go build -C {folder} -ldflags=-s -w -o {binary}",
    ]
    manifest = json.loads((folder / "manifest.yaml").read_text())
    for kind, modules in programs.COLLECTOR.items():
        assert [entry["gomod"] for entry in manifest[kind]] == list(modules)


@pytest.mark.parametrize(
    ("name", "machine", "why"),
    [
        ("prometheus", FakeMachine(), "there is no apt-get to install it"),
        ("prometheus", FakeMachine("apt-get", is_root=False), "only root can install it"),
        ("prometheus", FakeMachine("apt-get", fails={"install": 2}), "install failed"),
        ("prometheus", FakeMachine("apt-get", fails={"install": 1, "update": 1}), "update failed"),
        ("prometheus", FakeMachine("apt-get"), "installed, but not on the PATH"),
        ("helm", FakeMachine("apt-get"), "there is no Go compiler to build it"),
        ("helm", FakeMachine("go", fails={"install": 1}), "install failed"),
        ("otelcol", FakeMachine("go"), "its builder was installed, but is not on the PATH"),
    ],
)
def test_what_cannot_be_installed_is_missing_with_a_reason(name, machine, why):
    with pytest.raises(programs.Missing, match=f"^{name} is missing: {why} "):
        programs.find(name, machine)


def test_what_another_process_installed_meanwhile_is_not_installed_again():
    machine = FakeMachine("apt-get")

    @contextlib.contextmanager
    def installing():
        machine.commands.add("chromium")
        yield

    machine.installing = installing
    assert programs.find("chromium", machine) == "/bin/chromium"
    assert machine.ran == []


@pytest.mark.parametrize(("ci", "ending"), [("true", pytest.fail), ("", pytest.skip)])
def test_a_missing_program_skips_a_test_and_fails_it_in_ci(ci, ending, monkeypatch):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(programs, "_found", lambda _name: ("", "prometheus is missing: so it is"))
    with pytest.raises(ending.Exception, match="so it is"):
        programs.require("prometheus")


def test_no_daemon_is_started_while_a_package_is_installed(tmp_path):
    policy = tmp_path / "policy-rc.d"
    with programs.ThisMachine(policy, tmp_path / "cache").installing():
        assert subprocess.run([policy], check=False).returncode == 101
    assert not policy.exists()


def test_a_policy_of_the_machine_itself_stays(tmp_path):
    policy = tmp_path / "policy-rc.d"
    policy.write_text("mine")
    with programs.ThisMachine(policy, tmp_path / "cache").installing():
        assert policy.read_text() == "mine"
    assert policy.read_text() == "mine"


def test_installations_wait_for_each_other(tmp_path):
    other = (
        "import fcntl, sys\n"
        "try: fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(7)\n"
    )
    lock = tmp_path / "cache" / "install.lock"
    with programs.ThisMachine(tmp_path / "none" / "policy", tmp_path / "cache").installing():
        held = subprocess.run([sys.executable, "-c", other, lock], check=False).returncode
    free = subprocess.run([sys.executable, "-c", other, lock], check=False).returncode
    assert (held, free) == (7, 0)


def test_the_real_machine_says_what_went_wrong(tmp_path):
    machine = programs.ThisMachine(tmp_path / "policy", tmp_path)
    shell = machine.which("sh")
    assert shell is not None
    assert os.access(shell, os.X_OK)
    assert machine.run([shell, "-c", "test $WORD = yes"], {"WORD": "yes"}) == ""
    assert machine.run([shell, "-c", "echo no; echo room >&2; exit 1"], {}) == (
        f"{shell} -c failed: room"
    )
    assert "No such file" in machine.run([str(tmp_path / "none")], {})
