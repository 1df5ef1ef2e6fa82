"""The commands. Each is thin: it reads its arguments, calls one function and prints.

What a command needs is imported when it runs: numba and grpc take seconds that `--help` should
not cost. Errors of the tree in `errors` end as lines on stderr and an exit code: 2 for a
configuration that cannot work, 3 for storage or an address that cannot be had, 1 for anything
else. Bugs keep their traceback.
"""

import errno
import importlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from outcome_exporter import __version__
from outcome_exporter.errors import (
    ConfigError,
    ExplainError,
    GrafanaError,
    ListenError,
    OutcomeExporterError,
    OutputError,
    Problem,
    StorageError,
)

app = typer.Typer(
    name="outcome-exporter",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigFile = Annotated[
    Path,
    typer.Option("--config", "-c", metavar="FILE", help="The configuration, a YAML file."),
]
OptionalConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The configuration: adds titles, currencies and links to traces.",
    ),
]


class LogFormat(StrEnum):
    """How the exporter's log is written."""

    TEXT = "text"
    JSON = "json"


LogFormatOption = Annotated[
    LogFormat, typer.Option(help="How the log on stderr is written, a line each.")
]


def _print_version(wanted: bool) -> None:  # noqa: FBT001  # typer calls it
    if wanted:
        typer.echo(f"outcome-exporter {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Did users get what they came for? As Prometheus series.

    Joins OpenTelemetry traces with business events into outcomes, and counts them exactly: how
    many attempts succeeded, what failures cost, how much error budget is left, what is to blame.

    Begin with `outcome-exporter demo`.
    """


@app.command()
def serve(
    config: ConfigFile,
    log_format: LogFormatOption = LogFormat.TEXT,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Take over the configuration whenever it changes.")
    ] = False,
) -> None:
    """Receive traces and events, serve the series.

    Runs until it is stopped. Which ports it opens stands in the configuration: by default OTLP
    over gRPC on 4317, OTLP over HTTP and business events on 4318, /metrics and the page on 9464.
    SIGHUP and POST /-/reload take over a changed configuration; one that cannot work changes
    nothing and is named in the log.
    """
    serving = importlib.import_module("outcome_exporter.server").serve
    serving(config, log_format.value, watch=watch)


@app.command()
def demo(
    *,
    fast: Annotated[
        bool, typer.Option("--fast", help="In simulated time: all of it in under 20 seconds.")
    ] = False,
    seconds: Annotated[
        int | None,
        typer.Option(min=20, help="How long the shop is open; what breaks is squeezed to fit."),
    ] = None,
) -> None:
    """Watch a small shop fail, and what the series say.

    Needs no configuration and nothing but this program; writes to a folder of its own. Takes five
    minutes. Exit code 1 if the exporter does not count what the shop knows.
    """
    raise typer.Exit(
        importlib.import_module("outcome_exporter.demo").run(fast=fast, seconds=seconds)
    )


@app.command()
def check(config: ConfigFile) -> None:
    """Say whether a configuration works, and what to do.

    Every problem is a line: file and line, path, problem; remedy. Exit code 2 if it cannot work.
    """
    from outcome_exporter import check as checks  # noqa: PLC0415  # see above

    checked = checks.load(config)
    for warning in checked.warnings:
        _print_problem(str(config), warning)
    for line in checks.summary(checked.config, file=str(config)):
        typer.echo(line)


generate = typer.Typer(
    name="generate", no_args_is_help=True, help="Write what stands beside the exporter."
)
app.add_typer(generate)

Folder = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write to.")
]
CheckOnly = Annotated[
    bool, typer.Option("--check", help="Write nothing; exit code 1 where the files differ.")
]


class RuleFormat(StrEnum):
    """Who reads the rules."""

    PROMETHEUS = "prometheus"
    OPERATOR = "operator"


@generate.command()
def rules(
    *,
    config: ConfigFile,
    output: Folder,
    check_only: CheckOnly = False,
    per_slo: Annotated[
        bool, typer.Option("--per-slo", help="Burn alerts for each SLO by name.")
    ] = False,
    form: Annotated[
        RuleFormat, typer.Option("--format", help="For Prometheus, or its operator's resource.")
    ] = RuleFormat.PROMETHEUS,
) -> None:
    """Write alerts and recording rules for Prometheus.

    By default they serve any number of SLOs: they read the thresholds that the exporter shows, and
    need to be written again only when `alerts` or `trace_search_url` in the configuration
    changes.
    """
    from outcome_exporter import check as checks  # noqa: PLC0415  # see above
    from outcome_exporter.rules import files  # noqa: PLC0415  # see above

    texts = files.rules(checks.load(config).config, per_slo=per_slo, form=form.value)
    _write_or_compare(texts, output, check_only=check_only)


def _write_or_compare(texts: dict[str, str], folder: Path, *, check_only: bool) -> None:
    from outcome_exporter.rules import files  # noqa: PLC0415  # see above

    with _writing_to(folder):
        paths = files.stale(texts, folder) if check_only else files.write(texts, folder)
    if not check_only:
        for path in paths:
            typer.echo(path)
        return
    for path in paths:
        typer.secho(f"{path} differs; run this without --check", err=True, fg=typer.colors.RED)
    if paths:
        raise typer.Exit(1)


@contextmanager
def _writing_to(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(place, error) from None


@app.command()
def replay(
    config: ConfigFile,
    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG", help="A kept log.db, or a length-delimited OTLP file, also with zstd."
        ),
    ],
) -> None:
    """Judge a kept log, or recorded traces, again.

    Says what the SLOs would have read under the configuration, which alerts would have fired and
    when, and how every journey's attempts ended. Stores nothing.
    """
    from rich.console import Console  # noqa: PLC0415  # see above

    module = importlib.import_module("outcome_exporter.replay")
    module.replay(config, log, Console(), time.perf_counter, secrets.token_bytes(16))


@app.command()
def backfill(config: ConfigFile) -> None:
    """Fill SLO windows from a Prometheus' history.

    For SLOs with `sli: {prometheus: …}`, while the exporter does not run. What has been read
    before is not read again, so it may be stopped and begun again.
    """
    from rich.progress import Progress  # noqa: PLC0415  # see above

    steps = importlib.import_module("outcome_exporter.server").backfill(config)
    with Progress() as progress:
        tasks = {}
        for name, done, todo in steps:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=todo)
            progress.update(tasks[name], completed=done)
    have = "has its" if len(tasks) == 1 else "have their"
    said = f"{_counted(len(tasks), 'SLO')} {have} history"
    typer.echo(said if tasks else "no SLO reads a Prometheus")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


@app.command()
def explain(
    trace_id: Annotated[
        str | None, typer.Argument(metavar="TRACE_ID", help="32 hexadecimal digits.")
    ] = None,
    *,
    journey: Annotated[
        str | None, typer.Option(metavar="NAME", help="Sum up a journey instead.")
    ] = None,
    since: Annotated[str, typer.Option(metavar="DURATION", help="With --journey.")] = "1h",
    url: Annotated[
        str, typer.Option(metavar="URL", help="The metrics port of a running exporter.")
    ] = "http://localhost:9464",
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the token of that port.")
    ] = None,
) -> None:
    """Say why an attempt was bad, and who is blamed.

    Asks a running exporter, which remembers its last bad attempts (limits.explained) since it was
    started or reloaded.
    """
    from rich.console import Console  # noqa: PLC0415  # see above

    if (trace_id is None) == (journey is None):
        raise typer.BadParameter("give a trace id or --journey NAME")
    question = {"trace_id": trace_id} if trace_id else {"journey": journey, "since": since}
    token = None if token_file is None else _read_token(token_file, ExplainError)
    module = importlib.import_module("outcome_exporter.explain")
    module.explain(Console(), url, question, token)


class Format(StrEnum):
    """What other tools have their SLOs in."""

    OPENSLO = "openslo"
    SLOTH = "sloth"
    PYRRA = "pyrra"


@app.command("import")
def import_(
    format_: Annotated[Format, typer.Argument(metavar="FORMAT", help="openslo, sloth or pyrra.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Files of that format.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to, else stdout.")
    ] = None,
    prometheus: Annotated[
        str | None, typer.Option(metavar="URL", help="The Prometheus to read from.")
    ] = None,
) -> None:
    """Turn SLOs of OpenSLO, Sloth or Pyrra into a configuration.

    What could not be carried over is told on stderr, a line each, with the reason. Exit code 1 if
    nothing could.
    """
    importers = importlib.import_module("outcome_exporter.importers")
    done = importers.run(format_, importers.load(files), url=prometheus)
    for note in done.notes:
        typer.secho(str(note), err=True, fg=typer.colors.YELLOW)
    typer.echo(f"{_counted(done.slos, 'SLO')}, {_counted(len(done.notes), 'note')}", err=True)
    if not done.slos:
        raise typer.Exit(1)
    if output is None:
        typer.echo(done.text, nl=False)
    else:
        with _writing_to(output):
            output.write_text(done.text, encoding="utf-8")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration.

    Editors complete and check with it what one writes.
    """
    from outcome_exporter import config  # noqa: PLC0415  # see above

    typer.echo(json.dumps(config.json_schema(), indent=2, ensure_ascii=False))


@generate.command("dashboards")
def generate_dashboards(
    *,
    config: OptionalConfigFile = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write them.")
    ] = Path("dashboards"),
    check_only: CheckOnly = False,
) -> None:
    """Write the Grafana dashboards as JSON.

    They serve every configuration, through variables; with one they know its titles too.
    """
    _write_or_compare(_dashboards(config), output, check_only=check_only)


@app.command()
def push(
    grafana: Annotated[
        str, typer.Option(metavar="URL", help="Grafana, such as https://grafana.example.com")
    ],
    *,
    config: OptionalConfigFile = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the token; else GRAFANA_TOKEN holds it."),
    ] = None,
    folder: Annotated[
        str, typer.Option(metavar="TITLE", help="Folder of the dashboards.")
    ] = "Outcomes",
) -> None:
    """Upload the dashboards to Grafana.

    Needs a token of a service account that may create folders and write dashboards. Safe to
    repeat: what is there becomes what would be generated.
    """
    token = _token(token_file)
    files = _dashboards(config)
    pushing = importlib.import_module("outcome_exporter.push")
    for line in pushing.push(files, grafana, token=token, folder=folder):
        typer.echo(line)


def _token(file: Path | None) -> str:
    """The token, from a file or the environment; never shown."""
    in_environment = os.environ.get("GRAFANA_TOKEN", "")
    token = in_environment if file is None else _read_token(file, GrafanaError)
    if not token.strip():
        raise GrafanaError("no token; set GRAFANA_TOKEN or give --token-file FILE")
    return token.strip()


def _read_token(file: Path, kind: type[OutcomeExporterError]) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no text"
        raise kind(f"--token-file {file}: {why}") from None


def _dashboards(file: Path | None) -> dict[str, str]:
    """The dashboards, with what a configuration knows if there is one."""
    config = None
    if file is not None:
        config = importlib.import_module("outcome_exporter.check").load(file).config
    files: dict[str, str] = importlib.import_module("outcome_exporter.dashboards").generate(config)
    return files


def _print_problem(file: str, problem: Problem) -> None:
    colour = typer.colors.RED if problem.severity == "error" else typer.colors.YELLOW
    typer.secho(problem.in_file(file), err=True, fg=colour)


def main() -> None:
    """Runs the command line; the only place that turns errors into exit codes."""
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            _print_problem(error.file, problem)
        sys.exit(2)
    except OutcomeExporterError as error:
        typer.secho(f"outcome-exporter: {error}", err=True, fg=typer.colors.RED)
        sys.exit(3 if isinstance(error, (ListenError, StorageError)) else 1)
    except OSError as error:
        # What is opened says its name; what is left is where this prints to.
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        typer.secho(f"outcome-exporter: standard output: {error.strerror}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left at exit
        sys.exit(1)
