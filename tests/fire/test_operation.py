"""A real process: reloaded, protected from its own configuration, and stopped."""

import json
import signal
import time

import pytest
import yaml
from tests.fire.process import JOURNEY, config, exporting, get, post, spans, until

SLO = JOURNEY["slos"][0]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operation")
    file = folder / "config.yaml"
    with exporting(file, config(folder)) as exporter:
        exporter.file, exporter.values = file, config(folder)
        exporter.sent = 0
        yield exporter


def send(exporter, count=10):
    now = time.time_ns()
    assert post(exporter.http, spans(count, first=now, start=now)) == 200
    exporter.sent += count
    until(
        lambda: exporter.series().get('slo_events_total{result="good",slo="ok"}') == exporter.sent
    )


def by_hangup(exporter):
    exporter.process.send_signal(signal.SIGHUP)


def by_request(exporter):
    get(exporter.page, "/-/reload", "POST")


RELOADS = pytest.mark.parametrize(
    "reload", [by_hangup, pytest.param(by_request, marks=pytest.mark.slow)]
)
OK = "outcome_exporter_config_last_reload_successful"


@RELOADS
def test_a_bad_file_leaves_the_running_configuration_and_says_so(running, reload):
    send(running)
    before = len(running.lines)
    running.file.write_text("journeys: [{name: checkout}]")
    reload(running)
    until(lambda: running.series()[OK] == 0)
    send(running)
    if reload is by_hangup:
        line = until(lambda: [line for line in running.lines[before:] if "not reloaded" in line])
        said = json.loads(line[0])
        assert said["level"] == "ERROR"
        assert "journeys[0].attempt: is missing" in said["message"]
    else:
        status, text = get(running.page, "/-/reload", "POST")
        assert status == 500
        assert "journeys[0].attempt: is missing" in text
    running.file.write_text(yaml.safe_dump(running.values))
    reload(running)
    until(lambda: running.series()[OK] == 1)


@RELOADS
def test_slos_that_come_change_and_go_leave_the_history_of_those_that_stay(running, reload):
    send(running)
    for slos, objective, others in (
        ([SLO, SLO | {"name": "new", "objective": 95}], 0.99, 1),
        ([SLO | {"name": "new", "objective": 95}, SLO | {"objective": 99.9}], 0.999, 1),
        ([SLO], 0.99, 0),
    ):
        journeys = [JOURNEY | {"slos": slos}]
        running.file.write_text(yaml.safe_dump(running.values | {"journeys": journeys}))
        reload(running)
        ratio = 'slo_objective_ratio{slo="ok"}'

        def taken_over(ratio=ratio, objective=objective, others=others):
            shown = running.series()
            return shown[ratio] == objective and others == (
                'slo_objective_ratio{slo="new"}' in shown
            )

        until(taken_over)
        assert running.series()['slo_events_total{result="good",slo="ok"}'] == running.sent
        send(running)


@RELOADS
def test_what_needs_a_restart_is_refused(running, reload):
    running.file.write_text(yaml.safe_dump(running.values | {"metrics": {"listen": "127.0.0.1:1"}}))
    reload(running)
    until(lambda: running.series()[OK] == 0)
    running.file.write_text(yaml.safe_dump(running.values))
    reload(running)
    until(lambda: running.series()[OK] == 1)


def test_a_watched_file_is_taken_over_whenever_it_works(tmp_path):
    file, values = tmp_path / "config.yaml", config(tmp_path)
    with exporting(file, values, "--watch") as exporter:
        for slo, reloaded, ratio in (
            (SLO | {"objective": 99.9}, 1, 0.999),
            (SLO | {"objective": 100}, 0, 0.999),
            (SLO, 1, 0.99),
        ):
            new = tmp_path / "new.yaml"
            new.write_text(yaml.safe_dump(values | {"journeys": [JOURNEY | {"slos": [slo]}]}))
            new.rename(file)

            def taken(reloaded=reloaded, ratio=ratio):
                shown = exporter.series()
                return (shown[OK], shown['slo_objective_ratio{slo="ok"}']) == (reloaded, ratio)

            until(taken)
        assert exporter.logged("leaves no error budget")


def test_every_line_is_json(running):
    lines = [json.loads(line) for line in running.lines]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)


@pytest.mark.slow
def test_the_end_is_graceful_and_nothing_acknowledged_is_missing_after_it(tmp_path):
    values = config(tmp_path)
    file = tmp_path / "config.yaml"
    with exporting(file, values) as exporter:
        now = time.time_ns()
        assert post(exporter.http, spans(25, first=now, start=now)) == 200
        began = time.monotonic()
        exporter.process.send_signal(signal.SIGTERM)
        assert exporter.process.wait(40) == 0
        assert time.monotonic() - began < 30
        until(lambda: exporter.logged("stopped"))
    with exporting(file, values) as exporter:
        until(lambda: exporter.total("slo_events_total", 'slo="ok"') == 25)
