"""What a repository may hold: the examples for Flux and Argo CD, and the chart as a package."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cloudcoil.models.fluxcd import helm as flux
from cloudcoil.models.fluxcd import source
from tests.chart.test_chart import CHART, KUBERNETES, ROOT, of_kind, rendered, run
from tests.programs import require

GITOPS = ROOT / "examples" / "gitops"


@pytest.fixture(scope="session")
def helm():
    return require("helm")


def resources(name):
    return list(yaml.safe_load_all((GITOPS / name).read_text(encoding="utf-8")))


def described():
    return yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))


def test_flux_gets_resources_that_it_knows_and_values_that_install(helm, tmp_path):
    repository, release = resources("flux.yaml")
    # The models know this resource only by the version before, which has the same fields.
    before = repository | {"apiVersion": "source.toolkit.fluxcd.io/v1beta2"}
    for model, resource in (
        (source.v1beta2.OCIRepository, before),
        (flux.v2.HelmRelease, release),
    ):
        known = model.model_validate(resource)
        assert known.model_dump(by_alias=True, exclude_unset=True, mode="json") == resource
    assert repository["spec"]["ref"]["tag"] == described()["version"]
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(release["spec"]["values"]))
    documents = rendered(helm, "--values", str(values))
    assert of_kind(documents, "PrometheusRule")
    assert of_kind(documents, "ServiceMonitor")


def test_argo_cd_gets_the_version_that_there_is():
    (application,) = resources("argo-cd.yaml")
    packaged, values = application["spec"]["sources"]
    wanted = described()["name"], described()["version"]
    assert (packaged["chart"], packaged["targetRevision"]) == wanted
    (file,) = packaged["helm"]["valueFiles"]
    assert file.startswith(f"${values['ref']}/")


def test_a_package_holds_the_rules_and_dashboards_themselves(helm, tmp_path):
    done = run(helm, "package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    everything = "prometheusRule.enabled=true,dashboards.enabled=true,datasource.enabled=true"
    switches = ["--kube-version", KUBERNETES, "--set", everything]
    told = [run(helm, "template", "x", str(chart), *switches) for chart in (CHART, package)]
    assert [each.returncode for each in told] == [0, 0], told[1].stderr
    assert told[0].stdout == told[1].stdout


@pytest.mark.parametrize("switch", ["prometheusRule", "dashboards", "datasource"])
def test_a_chart_whose_links_were_lost_is_refused(helm, tmp_path, switch):
    broken = tmp_path / "outcome-exporter"
    for file in CHART.rglob("*"):
        if file.is_file() and "files" not in file.relative_to(CHART).parts:
            copy = broken / file.relative_to(CHART)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    arguments = ["--kube-version", KUBERNETES, "--set", f"{switch}.enabled=true"]
    done = run(helm, "template", "x", str(broken), *arguments)
    assert done.returncode != 0
    assert "package the chart with `helm package`" in done.stderr


def test_the_commands_of_a_repository_write_what_they_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (GITOPS / "README.md").read_text(encoding="utf-8")
    commands = [line for line in page.splitlines() if line.startswith("outcome-exporter ")]
    assert len(commands) == 5
    (tmp_path / "outcomes").mkdir()
    (tmp_path / "outcomes" / "config.yaml").write_bytes(
        (ROOT / "examples" / "checkout.yaml").read_bytes()
    )
    for command in commands:
        assert exporter(*command.split()[1:]) == 0, command
    file = next(Path("outcomes/rules").iterdir())
    file.write_text("groups: []")
    assert exporter(*commands[3].split()[1:]) == 1


def exporter(*arguments):
    command = [sys.executable, "-m", "outcome_exporter", *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode
