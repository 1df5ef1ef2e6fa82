"""Every alert as data: its name, when it fires, how urgent it is and what it says.

Thresholds that an SLO or a configuration gives are read from series. The others stand here, with
their reason. What compares now with before (silent failures, the join rate) fires above a share
that is common to that journey, since a journey of days loses attempts in its usual course.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import indent

from outcome_exporter import burn
from outcome_exporter.alerting import CAUSE_WINDOWS, with_enough_events
from outcome_exporter.config import Config
from outcome_exporter.config.journeys import Promised
from outcome_exporter.rules import burning, messages
from outcome_exporter.rules.burning import KEPT
from outcome_exporter.units import SECOND

_JOURNEY = f"{KEPT}, journey"
SHARE_MORE = 0.01
"""Share of attempts, beyond twice the usual, that must have gone missing."""
JOIN_SHARE_MORE = 0.05
"""Share of events, beyond twice the usual, that must have found no attempt."""
VANISHED_FROM = 60
"""Attempts or events in the hour before, from which none in 10 minutes is no chance: at such a
rate ten are expected, and none comes once in 20,000 times (a Poisson process)."""
CHANGE_SECONDS = 2 * 3600
"""How recent a change must be to be suspected."""
_NOW = "|".join(CAUSE_WINDOWS)
LAG_SECONDS = 60
CHECKPOINT_SECONDS = 600
"""Age of a checkpoint that is overdue; twice `storage.checkpoint`, where that is longer."""
REFUSED = "overloaded|failed|invalid|unsupported|too_large|too_slow"
"""Results of requests by which data did not get in; an aborted one was its sender's choice."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. Texts are templates of Prometheus."""

    name: str
    severity: burn.Severity
    expr: str
    summary: str
    description: str
    runbook_url: str = ""
    variables: tuple[str, ...] = ()
    """Labels that a dashboard takes as variables."""
    labels: tuple[tuple[str, str], ...] = ()
    """Beside `severity`, where the expression does not give them."""
    wait: str = ""
    """How long it must hold before it fires: for what a scrape may miss once."""


def _owned(expr: str) -> str:
    """With the label `owner` of its journey."""
    return f"""\
(
{indent(expr, "  ")})
* on ({_JOURNEY}) group_left (owner)
  max by ({_JOURNEY}, owner) (outcome_journey_info)
"""


def _lines(*lines: str) -> str:
    return "\n".join(lines)


_WHAT_HAPPENED = _lines(messages.causes(), messages.reasons())


# Error budgets

_BURN_NAMES: tuple[tuple[burn.Severity, str], ...] = (
    ("page", "OutcomeBudgetBurnsFast"),
    ("ticket", "OutcomeBudgetBurns"),
)


def burn_alerts() -> Iterator[Alert]:
    """The burn alerts for any number of SLOs."""
    for severity, name in _BURN_NAMES:
        yield _burn(name, severity)
    yield _spent(burning.spent())


def slo_burn_alerts(config: Config, promised: Promised) -> Iterator[Alert]:
    """The burn alerts of one SLO by name."""
    journey, slo = promised
    for severity, name in _BURN_NAMES:
        if any(tier.severity == severity for tier in slo.tiers):
            yield _burn(name, severity, slo.name)
    spent = burning.explicit_spent(config, slo)
    for label, value in (("journey", journey.name if journey else ""), ("owner", promised.owner)):
        # JSON quotes as PromQL does, but for surrogates; a dollar would stand for a group.
        text = json.dumps(value.replace("$", "$$"), ensure_ascii=False)
        spent = f'label_replace({spent}, "{label}", {text}, "", "")'
    yield _spent(spent + "\n", slo.name)


def _burn(name: str, severity: burn.Severity, slo: str = "") -> Alert:
    selector = f',slo="{slo}"' if slo else ""
    expr = f'{burning.RECORD}{{severity="{severity}"{selector}}}\n'
    if severity == "ticket":
        page = f'{burning.RECORD}{{severity="page"{selector}}}'
        expr += f"unless on ({KEPT}, slo)\n  {page}\n"
    return Alert(
        name,
        severity,
        expr,
        summary=messages.burning(severity),
        description=_lines(
            messages.slo_counts() + messages.pain(), messages.budget(), _WHAT_HAPPENED
        ),
        runbook_url=messages.SLO_RUNBOOK,
        variables=("journey", "slo"),
        labels=(("slo", slo),) if slo else (),
    )


def _spent(expr: str, slo: str = "") -> Alert:
    return Alert(
        "OutcomeBudgetSpent",
        "ticket",
        expr,
        summary=f"{messages.SLO_TITLE}: the error budget of {{{{ $labels.slo }}}} is spent",
        description=_lines(
            messages.slo_counts() + messages.pain(), messages.budget(), _WHAT_HAPPENED
        ),
        runbook_url=messages.SLO_RUNBOOK,
        variables=("journey", "slo"),
        labels=(("slo", slo),) if slo else (),
    )


# Journeys


def journey_alerts(config: Config) -> Iterator[Alert]:
    """What matters to users beside their budgets."""
    yield _silent(config.alerts.min_bad_events, config.alerts.min_events)
    yield _value_at_risk()
    yield _change()
    yield _vanished()
    owner = (("owner", config.alerts.owner),)
    yield _events_stopped(owner)
    yield _join_rate(owner)


def _attempts(selector: str, window: str, offset: str = "") -> str:
    before = f" offset {offset}" if offset else ""
    return f"sum by ({_JOURNEY}) (increase(outcome_attempts_total{selector}[{window}]{before}))"


_MISSED = '{reason="missed"}'


def _silent(min_bad_events: int, min_events: int) -> Alert:
    expr = f"""\
(
    {_attempts(_MISSED, "1h")}
  /
    {_attempts("", "1h")}
)
> on ({_JOURNEY})
(
    {SHARE_MORE} + 2 * {_attempts(_MISSED, "1d", "1h")}
  /
    ({_attempts("", "1d", "1h")} > 0)
  or on ({_JOURNEY})
    {SHARE_MORE} + 0 * {_attempts("", "1h")}
)
and on ({_JOURNEY})
  {_attempts(_MISSED, "1h")} >= {min_bad_events}
and on ({_JOURNEY})
  (
      {_attempts(_MISSED, "1h")}
    >
      {_attempts('{reason="error"}', "1h")}
  )
"""
    if min_events:
        expr += f"""\
unless on ({_JOURNEY})
  {_attempts("", "1h")} < {min_events}
"""
    missed = messages.one(
        'sum(increase(outcome_attempts_total{journey=%q,reason="missed",%s}[1h]))',
        messages.JOURNEY,
        messages.COUNT,
    )
    return Alert(
        "OutcomeSilentFailures",
        "ticket",
        _owned(expr),
        summary=f"{messages.JOURNEY_TITLE}: fails silently, {{{{ $value | {messages.RATIO} }}}} "
        "of attempts went without an error and never got what they came for",
        description=_lines(
            f"In the last hour {missed} attempts were missed.{messages.pain()}", _WHAT_HAPPENED
        ),
        runbook_url=messages.JOURNEY_RUNBOOK,
        variables=("journey",),
    )


def _value_at_risk() -> Alert:
    return Alert(
        "OutcomeValueAtRisk",
        "page",
        _owned(f"""\
  sum by ({_JOURNEY}, currency) (increase(outcome_value_total{{state="at_risk"}}[1h]))
> on ({_JOURNEY}, currency)
  max by ({_JOURNEY}, currency) (outcome_alert_value_threshold)
"""),
        summary=f"{messages.JOURNEY_TITLE}: {{{{ $labels.currency }}}} "
        f"{{{{ $value | {messages.COUNT} }}}} at risk in the last hour",
        description=_lines(f"In the last hour:{messages.pain()}", _WHAT_HAPPENED),
        runbook_url=messages.JOURNEY_RUNBOOK,
        variables=("journey",),
    )


def _change() -> Alert:
    recent = f"time() - outcome_change_info < {CHANGE_SECONDS}"
    by_service = f'label_replace({recent}, "cause_service", "$1", "service", "(.+)")'
    ago = messages.one(
        "time() - outcome_change_info{service=%q,version=%q,%s}",
        "$labels.cause_service $labels.cause_version $exporter",
        messages.LENGTH,
        "a moment",
    )
    return Alert(
        "OutcomeChangeBurnsBudget",
        "ticket",
        _owned(f"""\
max by ({_JOURNEY}, cause_service, cause_version) (
  outcome_cause_share{{window=~"{_NOW}",cause_version!=""}} >= 0.5
)
and on ({KEPT}, cause_service, cause_version)
  label_replace(
    {by_service},
    "cause_version", "$1", "version", "(.+)"
  )
and on ({_JOURNEY})
  (
      (
          slo_burn_rate{{window="1h"}} > 1
{indent(with_enough_events(burning.select, burning.TARGET), "      ")}      )
    * on ({burning.TARGET}) group_left (journey)
      slo_info
  )
"""),
        summary=f"{messages.JOURNEY_TITLE}: {{{{ $labels.cause_service }}}} "
        "{{ $labels.cause_version }} burns the error budget since it came",
        description=_lines(
            f"It came {ago} ago, and explains {{{{ $value | {messages.RATIO} }}}} of what goes "
            f"wrong. Rolling it back is worth a thought.{messages.pain()}",
            _WHAT_HAPPENED,
        ),
        runbook_url=messages.JOURNEY_RUNBOOK,
        variables=("journey",),
    )


def _vanished() -> Alert:
    usual = messages.one(
        "sum(increase(outcome_attempts_total{journey=%q,%s}[1h] offset 15m))",
        messages.JOURNEY,
        messages.COUNT,
    )
    return Alert(
        "OutcomeTrafficVanished",
        "page",
        _owned(f"""\
{_attempts("", "10m")} == 0
and on ({_JOURNEY})
  {_attempts("", "1h", "15m")} >= {VANISHED_FROM}
unless on ({KEPT})
  outcome_exporter_log_lag_seconds > {LAG_SECONDS}
"""),
        summary=f"{messages.JOURNEY_TITLE}: nobody tries any more",
        description=f"No attempt was judged for 15 minutes; in the hour before there were {usual}. "
        "Either customers cannot reach it, or its telemetry does not reach the exporter.",
        runbook_url=messages.JOURNEY_RUNBOOK,
        variables=("journey",),
        wait="5m",
    )


def _received(signal: str, window: str, offset: str = "") -> str:
    before = f" offset {offset}" if offset else ""
    name = f'outcome_exporter_received_items_total{{signal="{signal}"}}'
    return f"sum by ({KEPT}) (increase({name}[{window}]{before}))"


def _events_stopped(labels: tuple[tuple[str, str], ...]) -> Alert:
    return Alert(
        "OutcomeEventsStopped",
        "page",
        f"""\
{_received("events", "10m")} == 0
and on ({KEPT})
  {_received("events", "1h", "15m")} >= {VANISHED_FROM}
and on ({KEPT})
  {_received("traces", "10m")} > 0
unless on ({KEPT})
  outcome_exporter_log_lag_seconds > {LAG_SECONDS}
""",
        summary="Business events stopped, although requests go on",
        description="No business event came for 15 minutes. Either nothing succeeds any more, or "
        "events do not reach the exporter: attempts that wait for one will count as missed when "
        "their time is up. Look at whoever sends them first.",
        labels=labels,
        wait="5m",
    )


def _join_rate(labels: tuple[tuple[str, str], ...]) -> Alert:
    def unmatched(window: str, offset: str = "") -> str:
        before = f" offset {offset}" if offset else ""
        name = "outcome_events_unmatched_total"
        return f"sum by ({KEPT}, type) (increase({name}[{window}]{before}))"

    return Alert(
        "OutcomeJoinRateDropped",
        "ticket",
        f"""\
(
    {unmatched("1h")}
  / on ({KEPT}) group_left ()
    {_received("events", "1h")}
)
> on ({KEPT}, type)
(
    {JOIN_SHARE_MORE} + 2 * {unmatched("1d", "1h")}
  / on ({KEPT}) group_left ()
    ({_received("events", "1d", "1h")} > 0)
  or on ({KEPT}, type)
    {JOIN_SHARE_MORE} + 0 * {unmatched("1h")}
)
and on ({KEPT}, type)
  {unmatched("1h")} >= 10
""",
        summary="{{ $labels.type }}: events no longer find the attempts that they belong to",
        description=f"{{{{ $value | {messages.RATIO} }}}} of the events of the last hour were of "
        "this type and found no attempt, more than twice the usual share. Was a join key renamed, "
        "in the spans or in the events? Their attempts count as missed.",
        labels=labels,
    )


# The exporter itself


def exporter_alerts(config: Config) -> Iterator[Alert]:
    """What keeps the exporter from telling the truth."""
    owner = (("owner", config.alerts.owner),)
    overdue_seconds = max(CHECKPOINT_SECONDS, 2 * config.storage.checkpoint // SECOND)
    yield Alert(
        "OutcomeExporterDown",
        "page",
        f"""\
(
    group by ({KEPT}) (last_over_time(outcome_exporter_ready[1d]))
  unless on ({KEPT})
    outcome_exporter_ready
)
or
(
    absent(outcome_exporter_ready)
  unless on ()
    last_over_time(outcome_exporter_ready[1d])
)
""",
        summary="outcome-exporter is down: nobody would be told if customers were hurt",
        description="Prometheus has not read its series for 5 minutes. What it acknowledged is "
        "safe in its log, and is counted once it runs again.",
        labels=owner,
        wait="5m",
    )
    yield Alert(
        "OutcomeExporterLagging",
        "ticket",
        f"max by ({KEPT}) (outcome_exporter_log_lag_seconds) > {LAG_SECONDS}\n",
        summary=f"outcome-exporter is {{{{ $value | {messages.LENGTH} }}}} behind",
        description="It receives more than it can judge; alerts about customers come late by as "
        f"much. {_self('outcome_exporter_log_lag_bytes', 'humanize1024')}B wait in its log.",
        labels=owner,
        wait="5m",
    )
    yield Alert(
        "OutcomeExporterRefusesData",
        "ticket",
        f"sum by ({KEPT}, receiver, signal, result) "
        f'(increase(outcome_exporter_requests_total{{result=~"{REFUSED}"}}[10m])) >= 1\n',
        summary="outcome-exporter refuses {{ $labels.signal }}: {{ $labels.result }}",
        description=f"{{{{ $value | {messages.COUNT} }}}} requests over {{{{ $labels.receiver }}}} "
        "in 10 minutes. Senders try again where it is overloaded or failed; what is invalid or too "
        "large is lost, and its senders' logs say why.",
        labels=owner,
        wait="5m",
    )
    yield Alert(
        "OutcomeExporterCardinalityCapped",
        "ticket",
        f"sum by ({KEPT}, what) (increase(outcome_exporter_overflow_total[1h])) >= 1\n",
        summary="outcome-exporter reached a limit: {{ $labels.what }}",
        description=f"{{{{ $value | {messages.COUNT} }}}} in the last hour. Label values beyond it "
        "read `other`, and what is remembered to tell duplicates is forgotten early. Raise the "
        "limit under `limits`, or keep fewer labels.",
        labels=owner,
    )
    yield Alert(
        "OutcomeExporterCheckpointFails",
        "ticket",
        f"""\
max by ({KEPT}) (
    time() - outcome_exporter_checkpoint_timestamp_seconds > {overdue_seconds}
  unless on ({KEPT}, instance)
    outcome_exporter_checkpoint_timestamp_seconds == 0
)
or
max by ({KEPT}) (increase(outcome_exporter_checkpoint_failures_total[10m])) >= 1
""",
        summary="outcome-exporter cannot write its checkpoint",
        description="Nothing is lost: its log keeps what the checkpoint would hold. But the log "
        "grows, and a restart takes longer. Is the disk full?",
        labels=owner,
    )
    yield Alert(
        "OutcomeExporterClockSkew",
        "ticket",
        f"sum by ({KEPT}, what) (increase(outcome_exporter_skewed_times_total[1h])) >= 1\n",
        summary="Times that cannot be: {{ $labels.what }}",
        description=f"{{{{ $value | {messages.COUNT} }}}} in the last hour. A sender's clock is "
        "wrong, or it delivers what is older than the longest window. Times ahead are taken as "
        "their arrival's; what is too old is in no window.",
        labels=owner,
    )
    yield Alert(
        "OutcomeExporterConfigRefused",
        "ticket",
        f"max by ({KEPT}) (outcome_exporter_config_last_reload_successful == 0)\n",
        summary="outcome-exporter runs on an old configuration: the new one cannot work",
        description="`outcome-exporter check -c FILE` says why.",
        labels=owner,
        wait="5m",
    )


def _self(name: str, shown: str) -> str:
    return messages.one(f"max({name}{{%s}})", "$exporter", shown)
