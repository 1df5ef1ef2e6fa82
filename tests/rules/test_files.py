"""Rules as files: what is committed, both forms, and what --check says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.programs import require
from tests.rules import timeline
from tests.rules.promtool import verify

from outcome_exporter import check
from outcome_exporter.config import Config
from outcome_exporter.rules import files

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def generate(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "outcome_exporter", "generate", "rules", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )


def test_the_committed_rules_are_those_of_an_example_without_links():
    done = generate("-c", "examples/minimal.yaml", "-o", "rules", "--check")
    assert done.returncode == 0, done.stderr
    # Whoever loads them as they are is paged by them: no link may lead to an example's address.
    assert not any("://" in file.read_text() for file in (ROOT / "rules").iterdir())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_alerts_of_an_example_link_a_dashboard_that_takes_what_they_say(example):
    link = check.load(example).config.alerts.dashboard
    if not link:
        return
    board = json.loads((ROOT / "dashboards" / f"{link.rpartition('/')[2]}.json").read_text())
    assert {"journey", "slo"} <= {each["name"] for each in board["templating"]["list"]}


def test_check_names_every_file_that_differs_and_writes_nothing(tmp_path):
    config = ROOT / "examples" / "checkout.yaml"
    done = generate("-c", config, "-o", tmp_path / "new", "--check")
    assert done.returncode == 1
    assert not (tmp_path / "new").exists()
    assert generate("-c", config, "-o", tmp_path).stdout.splitlines() == [
        f"{tmp_path}/outcomes.yaml",
        f"{tmp_path}/sloth.yaml",
    ]
    assert generate("-c", config, "-o", tmp_path, "--check").returncode == 0
    (tmp_path / "sloth.yaml").write_text("groups: []\n")
    done = generate("-c", config, "-o", tmp_path, "--check")
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path}/sloth.yaml differs; run this without --check\n"
    assert (tmp_path / "sloth.yaml").read_text() == "groups: []\n"


@pytest.mark.parametrize("per_slo", [False, True])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_promtool_accepts_the_rules_of_every_example(promtool, tmp_path, example, per_slo):
    config = check.load(example).config
    paths = files.write(files.rules(config, per_slo=per_slo), tmp_path)
    done = subprocess.run(
        [promtool, "check", "rules", *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stdout + done.stderr  # lint: no two rules alike


def test_an_owner_may_be_called_anything(promtool, tmp_path):
    owner = 'Zahlungen 💳 "$1" \\'
    burn = {"sli": {"prometheus": {"bad": "errors_total", "total": "requests_total"}}}
    slo = {"name": "shop", "objective": 99, "owner": owner, **burn}
    rules = files.rules(Config.model_validate({"slos": [slo]}), per_slo=True)["outcomes.yaml"]
    series = {
        timeline.series("outcome_exporter_ready"): "1x30",
        timeline.series("slo_error_budget_remaining_ratio", slo="shop"): "-1x30",
        timeline.series("slo_window_events", slo="shop", window="28d", result="bad"): "9x30",
    }
    with pytest.raises(AssertionError) as refused:
        verify(promtool, tmp_path, rules, series, {("10m", "OutcomeBudgetSpent"): []})
    assert f"owner={json.dumps(owner, ensure_ascii=False)}" in str(refused.value)


@pytest.fixture(scope="module")
def promtool():
    return require("promtool")


def test_the_operators_resource_holds_the_same_groups():
    config = check.load(EXAMPLES[0]).config
    plain, resources = files.rules(config), files.rules(config, form="operator")
    for name, text in resources.items():
        resource = yaml.safe_load(text)
        assert resource["apiVersion"] == "monitoring.coreos.com/v1"
        assert resource["kind"] == "PrometheusRule"
        assert resource["metadata"]["name"] == f"outcome-exporter-{Path(name).stem}"
        assert resource["spec"] == yaml.safe_load(plain[name])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("per_slo", [False, True])
def test_no_number_is_noise(example, per_slo):
    for text in files.rules(check.load(example).config, per_slo=per_slo).values():
        assert "0000000" not in text
        assert "9999999" not in text


def test_generic_rules_do_not_change_with_the_slos():
    def rules(*objectives):
        slos = [
            {"name": f"slo-{i}", "objective": objective, "good": {"error": False}}
            for i, objective in enumerate(objectives)
        ]
        journey = {"name": "search", "attempt": {"span": {"service": "search"}}, "slos": slos}
        return files.rules(Config.model_validate({"journeys": [journey]}))

    assert rules(99) == rules(99.5, 95)


def test_settings_reach_the_rules():
    settings = {
        "severities": {"page": "critical", "ticket": "warning"},
        "keep_firing_for": "0s",
        "owner": "platform",
        "dashboard": "https://grafana.example.com/d/x?orgId=2",
    }
    text = files.rules(Config.model_validate({"alerts": settings}))["outcomes.yaml"]
    found = [r for g in yaml.safe_load(text)["groups"] for r in g["rules"] if "alert" in r]
    assert {rule["labels"]["severity"] for rule in found} == {"critical", "warning"}
    assert not any("keep_firing_for" in rule for rule in found)
    assert {rule["labels"].get("owner") for rule in found} == {None, "platform"}
    assert all("/d/x?orgId=2&" in rule["annotations"]["dashboard_url"] for rule in found)
    assert not any("trace_url" in rule["annotations"] for rule in found)


def test_every_alert_has_one_prefix_and_says_what_to_do():
    text = files.rules(check.load(ROOT / "examples" / "checkout.yaml").config)["outcomes.yaml"]
    found = [r for g in yaml.safe_load(text)["groups"] for r in g["rules"] if "alert" in r]
    for rule in found:
        assert rule["alert"].startswith("Outcome")
        assert set(rule["labels"]) <= {"severity", "owner"}
        assert {"summary", "description", "dashboard_url"} <= set(rule["annotations"])
