"""The Helm chart: rendered by a real helm, checked against the schemas of what it makes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.cert_manager import v1 as cert_manager
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from tests.programs import require

from outcome_exporter import check
from outcome_exporter.config import Config
from outcome_exporter.rules import files

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "outcome-exporter"
CASES = sorted((CHART / "ci").glob("*-values.yaml"))
GOLDEN = ROOT / "tests" / "golden" / "chart" / "defaults.yaml"
KUBERNETES = "1.31"
MODELS = {"monitoring.coreos.com/v1": prometheus_operator, "cert-manager.io/v1": cert_manager}
OPERATED = {
    "grafana.integreatly.org/v1beta1",
    "gateway.networking.k8s.io/v1",
}
"""Resources of others whose schemas are not at hand; they are parsed only."""


@pytest.fixture(scope="session")
def helm():
    return require("helm")


def run(helm, *arguments):
    return subprocess.run(
        [helm, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def rendered(helm, *arguments):
    done = run(helm, "template", "outcomes", str(CHART), "--kube-version", KUBERNETES, *arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(documents, kind):
    return [each for each in documents if each["kind"] == kind]


@pytest.mark.parametrize("values", CASES, ids=lambda path: path.stem)
def test_the_chart_passes_its_linter_and_makes_valid_resources(helm, values):
    linted = run(helm, "lint", "--strict", str(CHART), "--values", str(values))
    assert linted.returncode == 0, linted.stdout
    documents = rendered(helm, "--values", str(values))
    for document in documents:
        version = document["apiVersion"]
        if version in MODELS:
            model = getattr(MODELS[version], document["kind"]).model_validate(document)
            # What the model does not know it drops, so nothing may be missing.
            again = model.model_dump(by_alias=True, exclude_unset=True, mode="json")
            assert again == document
        elif version not in OPERATED:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    names = [(each["kind"], each["metadata"]["name"]) for each in documents]
    assert len(names) == len(set(names))


def test_every_switch_is_on_in_some_case():
    def switches(value, path=()):
        if isinstance(value, dict):
            for name, each in value.items():
                yield from switches(each, (*path, name))
        elif isinstance(value, bool) and not value:
            yield path

    def at(values, path):
        for name in path:
            values = values.get(name, {}) if isinstance(values, dict) else {}
        return values

    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    cases = [yaml.safe_load(case.read_text()) for case in CASES]
    off = [path for path in switches(defaults) if not any(at(case, path) is True for case in cases)]
    assert off == [("securityContext", "allowPrivilegeEscalation")]


def test_the_defaults_make_what_they_made(helm):
    done = run(helm, "template", "outcomes", str(CHART), "--kube-version", KUBERNETES)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(done.stdout)
    assert done.stdout == GOLDEN.read_text()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("config.journeys[0].nam=x", "additional properties 'nam' not allowed"),
        ("config.journeys[0].name=1x", "'/config/journeys/0/name'"),
        ("config.metrics.listen=0.0.0.0:1", "set ports.grpc, ports.http and ports.metrics"),
        ("config.receivers.otlp.grpc=0.0.0.0:1", "set ports.grpc, ports.http and ports.metrics"),
        ("config.receivers.otlp.http.listen=0.0.0.0:1", "set ports.grpc, ports.http"),
        (
            ",".join(f"config.metrics.tls.{key}=x" for key in ("certificate", "key", "client_ca")),
            "never be ready",
        ),
        ("config.metrics.tokens[0]=t,serviceMonitor.enabled=true", "Prometheus has none"),
        ("config.metrics.tokens[0]=t,podMonitor.enabled=true", "a PodMonitor has none"),
        ("config.storage.path=/data", "the chart sets it to its volume; remove it"),
        ("configReload=never", "value must be one of 'watch', 'checksum'"),
        ("replicas=2", "additional properties 'replicas' not allowed"),
        ("ingress.enabled=true", "an Ingress without a host would take /events of every host"),
        ("httpRoute.enabled=true", "a route belongs to a gateway; name one"),
        ("certManager.enabled=true", "a certificate needs an issuer; name one"),
        ("serviceMonitor.enabled=true,podMonitor.enabled=true", "scraped twice; keep one of them"),
        ("existingConfigMap=x,configReload=checksum", "use watch"),
        (
            "existingConfigMap=x,config.journeys[0].name=a,config.journeys[0].attempt.event=a",
            "keep one",
        ),
        (
            "existingConfigMap=x,"
            + ",".join(
                f"config.slos[0].{one}" for one in ("name=a", "objective=9", "sli.metric.name=b")
            ),
            "keep one of them",
        ),
        ("persistence.enabled=false,persistence.existingClaim=x", "enable it"),
        ("listenHost=::", "value must be one of '0.0.0.0', '[::]'"),
        *(
            (
                f"prometheusRule.enabled=true,prometheusRule.{one}",
                "no alert is called OutcomeGone; there are OutcomeBudgetBurns, OutcomeBudgetBurnsF",
            )
            for one in ("disabled[0]=OutcomeGone", "severity.OutcomeGone=x", "for.OutcomeGone=1m")
        ),
    ],
)
def test_values_that_cannot_work_are_refused_in_words(helm, values, said):
    done = run(helm, "template", "x", str(CHART), "--kube-version", KUBERNETES, "--set", values)
    assert done.returncode != 0
    assert said in done.stderr


def test_secrets_of_any_name_are_mounted_as_volumes_with_names_that_may_be(helm):
    secrets = ["tls.shop.example.com", "a" * 100]
    documents = rendered(helm, "--set-json", f"secretMounts={json.dumps(secrets)}")
    (workload,) = of_kind(documents, "StatefulSet")
    pod = workload["spec"]["template"]["spec"]
    volumes = {each["name"]: each["secret"] for each in pod["volumes"] if "secret" in each}
    assert [each["secretName"] for each in volumes.values()] == secrets
    # The schemas do not say so; the API server does (RFC 1123).
    assert all(re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in volumes)
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    for name, secret in volumes.items():
        assert mounts[name] == f"/etc/outcome-exporter/secrets/{secret['secretName']}"


def test_what_follows_from_the_values_is_current():
    done = subprocess.run(
        [sys.executable, "helm/generate.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_and_dashboards_are_the_same_files_as_everywhere(helm):
    documents = rendered(helm, "--set", "prometheusRule.enabled=true,dashboards.enabled=true")
    (rule,) = of_kind(documents, "PrometheusRule")
    source = yaml.safe_load((ROOT / "rules" / "outcomes.yaml").read_text())
    assert rule["spec"]["groups"] == source["groups"]
    maps = [each for each in of_kind(documents, "ConfigMap") if "grafana_dashboard" in str(each)]
    shown = {name: text for each in maps for name, text in each["data"].items()}
    assert shown == {file.name: file.read_text() for file in (ROOT / "dashboards").glob("*.json")}


def test_the_datasource_is_the_one_of_the_examples_under_a_name_of_its_own(helm):
    switches = "datasource.enabled=true,datasource.url=http://p:1,datasource.tracesUid=jaeger"
    (found,) = (
        each
        for each in of_kind(rendered(helm, "--set", switches), "ConfigMap")
        if "grafana_datasource" in each["metadata"]["labels"]
    )
    shown = yaml.safe_load(found["data"]["outcome-exporter.yaml"])
    example = yaml.safe_load((ROOT / "examples" / "grafana" / "datasource.yaml").read_text())
    source = example["datasources"][0]
    (destination,) = source["jsonData"]["exemplarTraceIdDestinations"]
    destination["datasourceUid"] = "jaeger"
    source |= {"name": "Prometheus with outcomes", "uid": "outcome-exporter", "url": "http://p:1"}
    assert shown == example


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        ({"journeys": []}, False),
        ({"journeys": [{"name": "a", "attempt": {"event": "b"}}]}, True),
        ({"slos": [{"name": "a", "objective": 99, "sli": {"composite": [{"slo": "b"}]}}]}, True),
    ],
    ids=["nothing", "a journey", "an SLO"],
)
def test_the_notes_say_whether_anything_is_counted(helm, tmp_path, config, counts):
    said, _ = told(helm, tmp_path, config)
    assert ("NOTHING IS COUNTED YET" not in said) == counts


def told(helm, tmp_path, config):
    """The notes of a configuration, and all documents."""
    # A chart's notes are shown by `helm install` alone, which asks a cluster.
    text = '{{ include (print .Template.BasePath "/NOTES.txt") . | toJson }}'
    notes = (
        f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: notes}}, data: {{text: {text}}}}}"
    )
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"config": config, "extraManifests": [notes]}))
    documents = rendered(helm, "--values", str(values))
    (said,) = (
        each["data"]["text"]
        for each in of_kind(documents, "ConfigMap")
        if each["metadata"]["name"] == "notes"
    )
    return said, documents


@pytest.mark.parametrize("secured", [False, True])
def test_what_is_encrypted_is_nowhere_called_plain(helm, tmp_path, secured):
    tls = {"tls": {"certificate": "a", "key": "b"}} if secured else {}
    config = {"receivers": {"otlp": {"grpc": tls, "http": tls}}, "metrics": tls}
    said, documents = told(helm, tmp_path, config)
    for service in of_kind(documents, "Service"):
        protocols = [port["appProtocol"] for port in service["spec"]["ports"]]
        assert protocols == (["https"] * 3 if secured else ["kubernetes.io/h2c", "http", "http"])
    assert said.count("http://") == (0 if secured else 3)
    assert said.count("https://") == (3 if secured else 0)


def test_every_port_listens_on_ipv6_where_the_values_say_so(helm):
    (config,) = (
        yaml.safe_load(each["data"]["config.yaml"])
        for each in of_kind(rendered(helm, "--set", "listenHost=[::]"), "ConfigMap")
    )
    otlp = config["receivers"]["otlp"]
    listeners = otlp["grpc"], otlp["http"], config["metrics"]
    assert [each["listen"] for each in listeners] == ["[::]:4317", "[::]:4318", "[::]:9464"]


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor"])
def test_whoever_scrapes_and_probes_does_so_as_the_port_is(helm, kind):
    monitor = kind[0].lower() + kind[1:]
    tls = ",".join(f"config.metrics.tls.{key}=x" for key in ("certificate", "key"))
    switches = f"{tls},{monitor}.enabled=true,{monitor}.tlsConfig.serverName=outcomes"
    documents = rendered(helm, "--set", switches)
    (spec,) = (each["spec"] for each in of_kind(documents, kind))
    (endpoint,) = spec.get("endpoints") or spec["podMetricsEndpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"] == {"serverName": "outcomes"}
    (statefulset,) = of_kind(documents, "StatefulSet")
    (container,) = statefulset["spec"]["template"]["spec"]["containers"]
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert {probe["scheme"] for probe in probes} == {"HTTPS"}


def test_an_alert_can_be_changed_and_left_out(helm):
    values = CHART / "ci" / "everything-values.yaml"
    (rule,) = of_kind(rendered(helm, "--values", str(values)), "PrometheusRule")
    alerts = {
        each["alert"]: each
        for group in rule["spec"]["groups"]
        for each in group["rules"]
        if "alert" in each
    }
    assert "OutcomeExporterClockSkew" not in alerts
    assert alerts["OutcomeBudgetBurns"]["labels"]["severity"] == "info"
    assert alerts["OutcomeTrafficVanished"]["for"] == "30m"
    assert {each["labels"]["team"] for each in alerts.values()} == {"observability"}


@pytest.mark.parametrize(
    "alerts",
    [
        {},
        {"severities": {"page": "critical", "ticket": "warning"}},
        {"severities": {"ticket": "warning"}, "owner": "platform"},
        {"keep_firing_for": "15m"},
    ],
)
def test_the_alerts_say_what_the_configuration_says_of_them(helm, alerts):
    config = {"alerts": alerts}
    values = ["prometheusRule.enabled=true", f"config={json.dumps(config)}"]
    (rule,) = of_kind(rendered(helm, *(f"--set-json={each}" for each in values)), "PrometheusRule")
    written = files.rules(Config.model_validate(config))["outcomes.yaml"]
    assert rule["spec"]["groups"] == yaml.safe_load(written)["groups"]


def test_the_rendered_configuration_is_one_that_works(helm, tmp_path):
    values = CHART / "ci" / "everything-values.yaml"
    documents = rendered(helm, "--values", str(values))
    text = next(
        each["data"]["config.yaml"]
        for each in of_kind(documents, "ConfigMap")
        if "config.yaml" in each.get("data", {})
    )
    file = tmp_path / "config.yaml"
    file.write_text(text)
    checked = check.load(file)
    assert [journey.name for journey in checked.config.journeys] == ["checkout"]
    assert checked.config.storage.path == "/var/lib/outcome-exporter"
