"""Runs `promtool test rules` on rules, series and what should fire."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Firing:
    """One alert that fires: all its labels but `alertname`, and all its texts."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)


Expected = Mapping[tuple[str, str], Sequence[Firing]]
"""By time and name of an alert: which of them fire then."""


def verify(
    promtool: str,
    folder: Path,
    rules: str,
    series: Mapping[str, str],
    expected: Expected,
    *,
    interval: str = "1m",
    queries: Mapping[tuple[str, str], Mapping[str, float]] | None = None,
) -> None:
    """Fails with promtool's own words where other alerts fire, or say something else.

    `queries` holds, by time and PromQL, the value of every series that is found.
    """
    (folder / "rules.yaml").write_text(rules, encoding="utf-8")
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": interval,
        "tests": [
            {
                "interval": interval,
                "input_series": [{"series": s, "values": v} for s, v in series.items()],
                "alert_rule_test": [
                    {
                        "eval_time": at,
                        "alertname": name,
                        "exp_alerts": [
                            {
                                "exp_labels": dict(alert.labels),
                                "exp_annotations": dict(alert.annotations),
                            }
                            for alert in alerts
                        ],
                    }
                    for (at, name), alerts in expected.items()
                ],
                "promql_expr_test": [
                    {
                        "eval_time": at,
                        "expr": expr,
                        "exp_samples": [{"labels": s, "value": v} for s, v in samples.items()],
                    }
                    for (at, expr), samples in (queries or {}).items()
                ],
            }
        ],
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump(tests, allow_unicode=True, sort_keys=False), encoding="utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
