"""The chart's own pod, started as a node would: unprivileged, read-only, watched by its probes."""

import os
import sys
import time
from pathlib import Path

import pytest
import yaml
from tests.chart import pod as pods
from tests.chart.test_chart import of_kind, rendered
from tests.fire.process import free_ports, post, spans
from tests.programs import require

from outcome_exporter.config import Config
from outcome_exporter.warmup import warm_up

ROOT = Path(__file__).parents[2]
VALUES = {
    "config": {
        "traces": {"quiet": "1s", "max_age": "5s"},
        "journeys": [
            {
                "name": "checkout",
                "attempt": {"span": {"service": "shop", "name": "pay"}},
                "slos": [{"name": "ok", "objective": 99, "good": {"error": False}}],
            }
        ],
    }
}
SLO_OK = 'slo_objective_ratio{slo="ok"} '


@pytest.fixture(scope="session")
def helm():
    return require("helm")


@pytest.fixture
def isolated():
    pods.require_isolation()


def installed(helm, folder, **changes):
    """StatefulSet and ConfigMap's data of the chart on free ports."""
    values = {"ports": dict(zip(("grpc", "http", "metrics"), free_ports(3), strict=True))}
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(VALUES | values | changes))
    documents = rendered(helm, "--values", str(file))
    (statefulset,) = of_kind(documents, "StatefulSet")
    (config,) = (each["data"] for each in of_kind(documents, "ConfigMap"))
    return statefulset, config


@pytest.fixture
def data(tmp_path):
    """The claim's folder, given to the pod's group as a kubelet does."""
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, 0, 65532)
    folder.chmod(0o2770)
    return folder


def image_here(tmp_path):
    """The checkout's own environment and compiled code, where the image has its own."""
    jit = Path(os.environ.get("NUMBA_CACHE_DIR", tmp_path / "jit"))
    jit.mkdir(parents=True, exist_ok=True)
    warm_up(Config())
    package = ROOT / "exporter"
    return pods.Image(
        Path(sys.prefix), jit, {"PYTHONPATH": str(package)}, binds=((package, package),)
    )


@pytest.mark.timeout(400)
def test_the_pod_serves_unprivileged_and_takes_a_changed_configuration_over(
    helm, isolated, data, tmp_path
):
    statefulset, config = installed(helm, tmp_path)
    volume = pods.ConfigMapVolume(tmp_path / "config", config)
    volumes = {"config": volume.folder, "data": data}
    with pods.running(statefulset, image_here(tmp_path), volumes, tmp_path) as pod:
        startup = pod.container["startupProbe"]
        patience = min(300, startup["periodSeconds"] * startup["failureThreshold"])
        pod.until(lambda: pod.probe("startupProbe") == 200, patience)
        assert pod.probe("livenessProbe") == 200
        assert pod.probe("readinessProbe") == 200

        assert pod.status("Uid").split() == ["65532"] * 4
        assert pod.status("Gid").split() == ["65532"] * 4
        assert int(pod.status("CapBnd"), 16) == int(pod.status("CapPrm"), 16) == 0
        assert pod.status("NoNewPrivs") == "1"
        assert pod.writable() == {"/tmp", "/var/lib/outcome-exporter"}

        def shows(line):
            return line in pod.get(pod.port("metrics"), "/metrics")[1].splitlines()

        now = time.time_ns()
        assert post(pod.port("otlp-http"), spans(10, first=now, start=now)) == 200
        pod.until(lambda: shows('slo_events_total{result="good",slo="ok"} 10.0'), 60)

        # As `helm upgrade` and the kubelet would; the second one cannot work.
        changed = config["config.yaml"].replace("objective: 99", "objective: 99.9")
        volume.write({"config.yaml": changed})
        pod.until(lambda: shows(f"{SLO_OK}0.999"), 60)
        volume.write({"config.yaml": changed.replace("objective: 99.9", "objective: 100")})
        pod.until(lambda: any("not reloaded" in line for line in pod.lines), 60)
        assert shows(f"{SLO_OK}0.999")
        assert shows("outcome_exporter_config_last_reload_successful 0.0")

        assert pod.end() == 0
    assert {file.name for file in data.iterdir()} >= {"log.db"}
