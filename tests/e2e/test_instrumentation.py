"""The programs of docs/instrumentation.md, run and compiled as they stand in the page."""

import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from tests.e2e.test_sdk_clients import node_modules  # noqa: F401 - a fixture
from tests.fire.process import config, exporting, until
from tests.programs import CACHE, require

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "instrumentation.md").read_text(encoding="utf-8")
GO_MODULES = ("otel@v1.44.0", "otel/log@v0.20.0", "otel/trace@v1.44.0")
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>shop</groupId><artifactId>shop</artifactId><version>1</version>
  <properties>
    <maven.compiler.source>17</maven.compiler.source>
    <maven.compiler.target>17</maven.compiler.target>
  </properties>
  <dependencies><dependency>
    <groupId>io.opentelemetry</groupId><artifactId>opentelemetry-api</artifactId>
    <version>1.55.0</version>
  </dependency></dependencies>
</project>
"""


def program(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture(scope="module")
def exporter(tmp_path_factory):
    """With the page's journey."""
    folder = tmp_path_factory.mktemp("instrumentation")
    journeys = yaml.safe_load(program("yaml"))["journeys"]
    with exporting(folder / "config.yaml", config(folder, journeys=journeys)) as running:
        yield running


def counts(exporter):
    return (
        exporter.total("outcome_attempts_total", 'journey="checkout"', 'reason="ok"'),
        exporter.total("outcome_attempts_total", 'journey="checkout"'),
        exporter.total("outcome_value_total", 'journey="checkout"', 'state="achieved"'),
    )


def gives_one_outcome(exporter, command, **environment):
    before = counts(exporter)
    done = subprocess.run(
        command,
        env={
            **os.environ,
            "OTEL_SERVICE_NAME": "frontend",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{exporter.http}",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = tuple(now + more for now, more in zip(before, (1, 1, 99.5), strict=True))
    until(lambda: counts(exporter) == expected)


@pytest.mark.timeout(300)
def test_the_python_program_gives_one_good_outcome(exporter):
    gives_one_outcome(exporter, [sys.executable, "-c", program("python")])


def test_the_deployment_is_shown_as_a_change(exporter):
    (sent,) = re.findall(r"^(curl (?:(?!```).)*deploy-1.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    # Changes are told for a day.
    sent = sent.replace("2026-01-01T12:00:00Z", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    command = shlex.split(sent.replace("localhost:4318", f"127.0.0.1:{exporter.http}"))
    subprocess.run([*command, "--fail", "--silent"], timeout=60, check=True)
    shown = 'service="payment"', 'kind="deployment"', 'version="1.8.2"'
    until(lambda: exporter.total("outcome_change_info", *shown) > 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_javascript_program_gives_one_good_outcome(exporter, node_modules):  # noqa: F811
    command = ["node", "-e", program("javascript")]
    gives_one_outcome(exporter, command, NODE_PATH=str(node_modules))


@pytest.fixture
def go():
    return require("go")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_go_function_compiles(go, tmp_path):
    (tmp_path / "shop.go").write_text(program("go"))
    told = {"cwd": tmp_path, "capture_output": True, "text": True}
    told["env"] = {
        **os.environ,
        "GOPATH": str(CACHE / "go"),
        "GOCACHE": str(CACHE / "go-build"),
        "GOFLAGS": "-modcacherw",
    }
    for arguments in (
        ["mod", "init", "shop"],
        ["get", *(f"go.opentelemetry.io/{module}" for module in GO_MODULES)],
        ["vet", "./..."],
    ):
        done = subprocess.run([go, *arguments], check=False, **told)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def maven():
    require("javac")
    return require("mvn")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_java_class_compiles(maven, tmp_path):
    (tmp_path / "pom.xml").write_text(POM)
    sources = tmp_path / "src" / "main" / "java"
    sources.mkdir(parents=True)
    (sources / "Checkout.java").write_text(program("java"))
    command = [maven, "-q", "-B", f"-Dmaven.repo.local={CACHE / 'maven'}", "compile"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "target" / "classes" / "Checkout.class").exists()
