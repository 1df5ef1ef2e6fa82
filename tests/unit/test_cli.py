"""The commands, from the outside."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import outcome_exporter
from outcome_exporter import cli, config
from outcome_exporter.errors import LogCorrupt, OutcomeExporterError, StateCorrupt

ROOT = Path(__file__).parents[2]
BEGINS_AND_SUCCEEDS = (
    "checkout: begins with span POST /api/checkout of frontend; "
    "succeeds with event shop.order.completed within 5m"
)


def run(*arguments, **environment):
    return run_python("-m", "outcome_exporter", *arguments, **environment)


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_help_names_every_command_and_where_to_begin():
    done = run("--help")
    assert done.returncode == 0
    assert "outcome-exporter demo" in done.stdout
    for command in ("serve", "demo", "check", "generate", "backfill", "import", "schema"):
        assert f"\n  {command} " in done.stdout
    assert "..." not in done.stdout.split("Commands:")[1]


def test_help_does_not_import_what_is_slow():
    program = (
        "import sys; from outcome_exporter import cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('numba', 'numpy', 'grpc', 'pydantic') if name in sys.modules])"
    )
    done = run_python("-c", program)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_version():
    done = run("--version")
    assert done.stdout == f"outcome-exporter {outcome_exporter.__version__}\n"


def test_check_says_what_is_promised():
    done = run("check", "-c", "examples/checkout.yaml")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "examples/checkout.yaml is good: 1 journey, 2 SLOs",
        "",
        BEGINS_AND_SUCCEEDS,
        "  checkout-success: 99.5 % achieved and without error over 28d",
        "    pages at 6.72 % bad over 1h and 5m, 2.8 % bad over 6h and 30m",
        "    tickets at 1.4 % bad over 1d and 2h, 0.5 % bad over 3d and 6h",
        "  checkout-fast: 95 % faster than 800ms over 28d",
        "    pages at 67.2 % bad over 1h and 5m, 28 % bad over 6h and 30m",
        "    tickets at 14 % bad over 1d and 2h, 5 % bad over 3d and 6h",
    ]


def test_a_bad_configuration_ends_in_lines_and_exit_code_2():
    done = run("check", "-c", "tests/bad_configs/objective-100.yaml", PYTHONWARNINGS="error")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == (
        "tests/bad_configs/objective-100.yaml:6: journeys[0].slos[0].objective: "
        "100 leaves no error budget; use at most 99.9999"
    )


def test_schema_is_json():
    assert json.loads(run("schema").stdout) == config.json_schema()


@pytest.mark.parametrize("arguments", [["serve"], ["check"], ["serv"]])
def test_wrong_usage_is_exit_code_2_without_a_traceback(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Usage:" in done.stderr


def call(monkeypatch, *arguments, module, **functions):
    """Runs the command line in this process, with a module replaced."""
    monkeypatch.setitem(sys.modules, f"outcome_exporter.{module}", SimpleNamespace(**functions))
    monkeypatch.setattr(sys, "argv", ["outcome-exporter", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return exit_info.value.code


def test_serve_and_demo_pass_their_arguments_on(monkeypatch):
    calls = []
    serve_code = call(
        monkeypatch,
        "serve",
        "-c",
        "a.yaml",
        "--log-format=json",
        "--watch",
        module="server",
        serve=lambda *given, watch: calls.append((*given, watch)),
    )
    demo_code = call(
        monkeypatch,
        "demo",
        "--fast",
        "--seconds=30",
        module="demo",
        run=lambda **given: calls.append(given) or 0,
    )
    assert (serve_code, demo_code) == (0, 0)
    assert calls == [(Path("a.yaml"), "json", True), {"fast": True, "seconds": 30}]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (LogCorrupt("bad checksum", offset=7), 3, "log is damaged at offset 7: bad checksum"),
        (StateCorrupt("written by a newer version"), 3, "written by a newer version"),
        (OutcomeExporterError("something else"), 1, "something else"),
    ],
)
def test_errors_end_as_one_line_and_an_exit_code(error, code, said, monkeypatch, capsys):
    def serve(_path, _log_format, *, watch):
        assert not watch
        raise error

    assert call(monkeypatch, "serve", "-c", "a.yaml", module="server", serve=serve) == code
    assert capsys.readouterr().err == f"outcome-exporter: {said}\n"


def test_what_a_plain_installation_lacks_is_told_with_where_it_is(tmp_path):
    program = (
        "import sys; sys.modules['grafana_foundation_sdk'] = None\n"
        f"sys.argv = ['outcome-exporter', 'generate', 'dashboards', '-o', {str(tmp_path)!r}]\n"
        "from outcome_exporter import cli; cli.main()"
    )
    done = run_python("-c", program)
    assert done.returncode == 1
    remedy = "in a checkout: pip install '.[generate]'"
    assert done.stderr == f"outcome-exporter: generating dashboards needs more; {remedy}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "rules", "-c", "examples/minimal.yaml", "-o"],
        ["generate", "rules", "--check", "-c", "examples/minimal.yaml", "-o"],
        ["generate", "dashboards", "-o"],
        ["generate", "dashboards", "--check", "-o"],
        ["import", "sloth", "tests/importers/files/sloth.yaml", "-o"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_where_nothing_can_be_written_is_told_without_a_traceback(arguments, tmp_path):
    place = tmp_path / "file"
    place.write_text("")
    done = run(*arguments, str(place / "below"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    if "--check" not in arguments:
        said = f"outcome-exporter: {place / 'below'}: Not a directory; name a place with --output"
        assert said in done.stderr


@pytest.mark.parametrize("command", [["schema"], ["check", "-c", "examples/checkout.yaml"]])
def test_a_full_disk_behind_standard_output_is_told_without_a_traceback(command):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "outcome_exporter", *command],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "outcome-exporter: standard output: No space left on device\n"


def test_a_backfill_of_nothing_makes_nothing(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(f"storage: {{path: {tmp_path / 'data'}}}\nslos: []\n")
    done = run("backfill", "-c", str(file))
    assert (done.returncode, done.stdout.strip()) == (0, "no SLO reads a Prometheus")
    assert list(tmp_path.iterdir()) == [file]


def test_one_is_no_plural(tmp_path):
    queries = {
        "error_query": "sum(rate(b[{{.window}}]))",
        "total_query": "sum(rate(a[{{.window}}]))",
    }
    sli = {"events": queries}
    slo = {"name": "a", "objective": 99, "sli": sli}
    file = tmp_path / "sloth.json"
    file.write_text(json.dumps({"version": "prometheus/v1", "service": "s", "slos": [slo]}))
    done = run("import", "sloth", str(file))
    assert done.stderr.splitlines()[-1].startswith("1 SLO, "), done.stderr


def test_colours_are_for_terminals_only():
    piped = run("check", "-c", "tests/bad_configs/objective-100.yaml", FORCE_COLOR="", TERM="xterm")
    assert "\x1b" not in piped.stderr
