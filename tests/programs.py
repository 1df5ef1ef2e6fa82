"""Programs beside Python that tests need: found, installed where that is possible, or skipped.

`require("prometheus")` returns the program's path. Where it is missing and this is Debian and
root, its package is installed; a Go program is built through the Go module proxy into
`.cache/bin`, an OpenTelemetry Collector from the modules that are named here. Otherwise the test is
skipped with a reason, which pytest prints at the end; with `CI=true` it fails instead, so that no
check is lost unnoticed.

Installing takes longer than a test may: call `require` in a fixture, which has no time limit.
"""

import contextlib
import fcntl
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NoReturn, Protocol

import pytest

CACHE = Path(__file__).parents[1] / ".cache"
INSTALL_SECONDS_MAX = 900
POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks it before a package starts a daemon; 101 means no."""


@dataclass(frozen=True)
class Program:
    """What a program is called, and where it comes from."""

    commands: tuple[str, ...]
    debian: str = ""
    """Debian packages."""
    go: str = ""
    """Go package with its version; needs a Go compiler."""
    collector: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Go modules of an OpenTelemetry Collector, as its builder's manifest names them."""


_CORE = "go.opentelemetry.io/collector"
_CONTRIB = "github.com/open-telemetry/opentelemetry-collector-contrib"
COLLECTOR_BUILDER = f"{_CORE}/cmd/builder@v0.155.0"
"""The newest version that the Prometheus exporter has too."""
COLLECTOR = {
    "receivers": (f"{_CORE}/receiver/otlpreceiver v0.155.0",),
    "processors": (
        f"{_CORE}/processor/batchprocessor v0.155.0",
        f"{_CORE}/processor/memorylimiterprocessor v0.155.0",
        f"{_CONTRIB}/processor/attributesprocessor v0.155.0",
        f"{_CONTRIB}/processor/probabilisticsamplerprocessor v0.155.0",
        f"{_CONTRIB}/processor/resourceprocessor v0.155.0",
        f"{_CONTRIB}/processor/tailsamplingprocessor v0.155.0",
    ),
    "extensions": (f"{_CONTRIB}/extension/storage/filestorage v0.155.0",),
    "connectors": (f"{_CONTRIB}/connector/spanmetricsconnector v0.155.0",),
    "exporters": (
        f"{_CORE}/exporter/otlpexporter v0.155.0",
        f"{_CORE}/exporter/otlphttpexporter v0.155.0",
        f"{_CORE}/exporter/debugexporter v0.155.0",
        f"{_CONTRIB}/exporter/prometheusexporter v0.155.0",
    ),
    "providers": (
        f"{_CORE}/confmap/provider/envprovider v1.61.0",
        f"{_CORE}/confmap/provider/fileprovider v1.61.0",
        f"{_CORE}/confmap/provider/yamlprovider v1.61.0",
    ),
}

PROGRAMS = {
    "prometheus": Program(("prometheus",), debian="prometheus"),
    "promtool": Program(("promtool",), debian="prometheus"),
    "alertmanager": Program(
        ("prometheus-alertmanager", "alertmanager"), debian="prometheus-alertmanager"
    ),
    "amtool": Program(("amtool",), debian="prometheus-alertmanager"),
    "chromium": Program(("chromium", "chromium-browser"), debian="chromium"),
    "chromedriver": Program(("chromedriver",), debian="chromium-driver"),
    "node": Program(("node", "nodejs"), debian="nodejs"),
    "npm": Program(("npm",), debian="npm"),
    "curl": Program(("curl",), debian="curl"),
    "ip": Program(("ip",), debian="iproute2"),
    "cc": Program(("cc",), debian="gcc libc6-dev"),
    "javac": Program(("javac",), debian="default-jdk-headless"),
    "mvn": Program(("mvn",), debian="maven"),
    "go": Program(("go",), debian="golang-go"),
    "sloth": Program(("sloth",), go="github.com/slok/sloth/cmd/sloth@v0.16.0"),
    "helm": Program(("helm",), go="helm.sh/helm/v3/cmd/helm@v3.21.4"),
    # What Docker Compose reads its files with; its own module is none that `go install` takes.
    "compose-go": Program(("cmd",), go="github.com/compose-spec/compose-go/v2/cmd@v2.16.2"),
    "unshare": Program(("unshare",), debian="util-linux"),
    "setpriv": Program(("setpriv",), debian="util-linux"),
    "otelcol": Program(("otelcol",), go=COLLECTOR_BUILDER, collector=COLLECTOR),
}


class Missing(Exception):
    """A program is not there and could not be installed."""


class Machine(Protocol):
    """What looking for and installing programs needs of the machine."""

    is_root: bool

    def which(self, command: str) -> str | None:
        """Path of a command."""

    def run(self, command: Sequence[str], env: Mapping[str, str]) -> str:
        """Runs a command with more environment; what went wrong, empty if nothing did."""

    def installing(self) -> contextlib.AbstractContextManager[None]:
        """One installation at a time, and none that starts a daemon."""


def require(name: str) -> str:
    """Path of a program; skips the test where there is none, fails it with `CI=true`."""
    path, why = _found(name)
    if why:
        missing(why)
    return path


def missing(why: str) -> NoReturn:
    """Skips the test for want of something, or fails it where everything must be there."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)


@functools.cache
def _found(name: str) -> tuple[str, str]:
    # Kept, failures too: an installation that failed is not tried again by every test.
    try:
        return find(name, ThisMachine()), ""
    except Missing as missing:
        return "", str(missing)


def find(name: str, machine: Machine) -> str:
    """Path of a program, installed if need be.

    Raises:
        Missing: It is not there and cannot be installed; says why.
    """
    program = PROGRAMS[name]
    path = _which(program, machine)
    if path is None:
        with machine.installing():
            # Another process may have installed it while this one waited.
            path = _which(program, machine) or _installed(name, program, machine)
    return path


def _which(program: Program, machine: Machine) -> str | None:
    return next(filter(None, map(machine.which, program.commands)), None)


def _installed(name: str, program: Program, machine: Machine) -> str:
    why = _build(program, machine) if program.go else _apt(program.debian, machine)
    path = _which(program, machine)
    if path is None:
        source = program.go or f"Debian's package {program.debian}"
        raise Missing(f"{name} is missing: {why or 'installed, but not on the PATH'} ({source})")
    return path


def _apt(packages: str, machine: Machine) -> str:
    if machine.which("apt-get") is None:
        return "there is no apt-get to install it"
    if not machine.is_root:
        return "only root can install it"
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    install = [*apt, "install", "-y", "--no-install-recommends", *packages.split()]
    if not machine.run(install, env):
        return ""
    # The lists may be old, or not there at all.
    return machine.run([*apt, "update"], env) or machine.run(install, env)


def _build(program: Program, machine: Machine) -> str:
    go = machine.which("go")
    if go is None:
        return "there is no Go compiler to build it"
    env = {
        "GOBIN": str(CACHE / "bin"),
        "GOPATH": str(CACHE / "go"),
        "GOCACHE": str(CACHE / "go-build"),
        # Go's module cache is read-only by default, which `make clean` could not remove.
        "GOFLAGS": "-modcacherw -trimpath",
    }
    why = machine.run([go, "install", program.go], env)
    if why or not program.collector:
        return why
    return _build_collector(program, machine, go, env)


def _build_collector(program: Program, machine: Machine, go: str, env: Mapping[str, str]) -> str:
    builder = machine.which(PurePath(program.go.partition("@")[0]).name)
    if builder is None:
        return "its builder was installed, but is not on the PATH"
    (name,) = program.commands
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "dist": {"name": name, "module": f"localhost/{name}", "output_path": str(folder)},
        **{kind: [{"gomod": m} for m in modules] for kind, modules in program.collector.items()},
    }
    # JSON is YAML, too.
    (folder / "manifest.yaml").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    generate = [builder, "--skip-compilation", "--config", str(folder / "manifest.yaml")]
    return machine.run(generate, env) or machine.run(
        [go, "build", "-C", str(folder), "-ldflags=-s -w", "-o", str(CACHE / "bin" / name)], env
    )


class ThisMachine:
    """The machine that the tests run on."""

    def __init__(self, policy: Path = POLICY, cache: Path = CACHE) -> None:
        self.is_root = os.geteuid() == 0
        self.policy = policy
        self.cache = cache

    def which(self, command: str) -> str | None:
        places = [str(self.cache / "bin"), os.environ.get("PATH", os.defpath)]
        return shutil.which(command, path=os.pathsep.join(places))

    def run(self, command: Sequence[str], env: Mapping[str, str]) -> str:
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=INSTALL_SECONDS_MAX,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        said = (done.stderr or done.stdout).strip().splitlines()
        last = said[-1] if said else f"exit code {done.returncode}"
        return f"{' '.join(command[:2])} failed: {last}" if done.returncode else ""

    @contextlib.contextmanager
    def installing(self) -> Iterator[None]:
        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / "install.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self._no_daemons():
                yield

    @contextlib.contextmanager
    def _no_daemons(self) -> Iterator[None]:
        try:
            with self.policy.open("x") as file:
                file.write("#!/bin/sh\nexit 101\n")
        except OSError:
            yield  # not ours to write, or the machine has one of its own
            return
        try:
            self.policy.chmod(0o755)
            yield
        finally:
            self.policy.unlink()
