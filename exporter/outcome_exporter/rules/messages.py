"""What alerts say, as templates of Prometheus' rules.

Templates query Prometheus when the alert is evaluated: values stand in annotations, where they may
change, never in labels, where each value would be another alert. Whatever a query does not find is
left out of the sentence; a message is complete without it.

One Prometheus may read several exporters that have SLOs of the same name, such as those of staging
and of production. So each query asks for `$exporter`, the one that the alert is about.

Functions used are those of Prometheus 2.42; `urlquery` is Go's own.
"""

from outcome_exporter import alerting
from outcome_exporter.rules.burning import KEPT
from outcome_exporter.series import Family

_BAD = 'increase(outcome_attempts_total{journey=%q,outcome="bad",%s}[1h])'
_MONEY = "sum by (currency) (increase(outcome_value_total{journey=%q,state=%q,%s}[1h]))"
JOURNEY = "$labels.journey $exporter"
"""What fills in ``{journey=%q,%s}``."""
SLO = "$labels.slo $exporter"
"""What fills in ``{slo=%q,%s}``."""
_CAUSE = "cause_service=%q,cause_operation=%q,cause_version=%q,cause_kind=%q"
_CAUSE_VALUES = (
    ".Labels.cause_service .Labels.cause_operation .Labels.cause_version .Labels.cause_kind"
)
_TIMES = "\u00d7"
_DASHBOARD_SECONDS = 3 * 3600
"""What a dashboard shows when it is opened from an alert."""

LENGTH = r"humanizeDuration | reReplaceAll `^(\S+ \S+) .*$` `$1` | reReplaceAll ` 0[smh]$` ``"
"""A length of time in its two largest units: ``3d 4h``, ``12m``."""
VALUE = "first | value"
COUNT = 'printf "%.0f"'
PERCENT = 'printf "%.3g %%"'
"""Of a percentage: ``4.21 %``, ``100 %``, without the noise behind the third digit."""
RATIO = "humanizePercentage | reReplaceAll `%$` ` %`"
"""Of a share of one, the same with four digits."""


def scoped(text: str) -> str:
    """A text, or an address, in which `$exporter` selects the exporter that the alert is about."""
    if "$exporter" not in text:
        return text
    labels = KEPT.split(", ")
    matchers = ",".join(f"{label}=%q" for label in labels)
    values = " ".join(f"$labels.{label}" for label in labels)
    return f"{{{{ $exporter := printf `{matchers}` {values} }}}}{text}"


def found(query: str, values: str, then: str, otherwise: str = "") -> str:
    """Text that depends on a query.

    Args:
        query: PromQL, with a ``%q`` for each of the values, and a ``%s`` for `$exporter`.
        values: What fills them in, separated by spaces.
        then: Text where it finds something; ``.`` is the list of samples.
        otherwise: Text where it finds nothing.
    """
    else_ = f"{{{{ else }}}}{otherwise}" if otherwise else ""
    return f"{{{{ with printf `{query}` {values} | query }}}}{then}{else_}{{{{ end }}}}"


def one(query: str, values: str, shown: str, otherwise: str = "") -> str:
    """The one number that a query finds, as `shown` has it."""
    return found(query, values, f"{{{{ . | {VALUE} | {shown} }}}}", otherwise)


def label(query: str, values: str, name: str, otherwise: str = "") -> str:
    """A label of the first that a query finds."""
    return found(query, values, f'{{{{ . | first | label "{name}" }}}}', otherwise)


def listed(body: str, separator: str = ", ") -> str:
    """Of samples, the body for each."""
    return f"{{{{ range $i, $_ := . }}}}{{{{ if $i }}}}{separator}{{{{ end }}}}{body}{{{{ end }}}}"


def times(value: str) -> str:
    """How many times: ``14``, ``1.2``, with a sign of multiplication."""
    return (
        f'{{{{ if ge {value} 10.0 }}}}{{{{ {value} | printf "%.0f" }}}}'
        f'{{{{ else }}}}{{{{ {value} | printf "%.1f" }}}}{{{{ end }}}}' + _TIMES
    )


JOURNEY_TITLE = label(
    "outcome_journey_info{journey=%q,%s}", JOURNEY, "title", "{{ $labels.journey }}"
)
JOURNEY_RUNBOOK = label("outcome_journey_info{journey=%q,%s}", JOURNEY, "runbook_url")
SLO_TITLE = label("slo_info{slo=%q,%s}", SLO, "title", "{{ $labels.slo }}")
SLO_RUNBOOK = label("slo_info{slo=%q,%s}", SLO, "runbook_url")
_UNIT = label('slo_info{slo=%q,unit!="",%s}', SLO, "unit", "events")
"""What the SLO counts: attempts, events, or slices of time such as minutes."""


def burning(severity: str) -> str:
    """``4.2 % of attempts failed checkout-success in the last 1h, 14x what its budget allows``.

    The alert's value is the burn rate of a tier's long window, so the share and the window follow
    from it. Several windows may burn alike; then the first by its name is said.
    """
    share = one(
        "100 * %v * (1 - slo_objective_ratio{slo=%q,%s})", f"$value {SLO}", PERCENT, "too many"
    )
    window = found(
        "slo_burn_rate{slo=%q,%s} == %v and on (slo, window) label_replace("
        f'slo_alert_burn_rate_threshold{{severity="{severity}",%s}}, '
        '"window", "$1", "long_window", "(.+)")',
        f"{SLO} $value $exporter",
        '{{ . | sortByLabel "window" | first | label "window" }}',
        "hour",
    )
    return (
        f"{SLO_TITLE}: {share} of {_UNIT} failed {{{{ $labels.slo }}}} in the last {window}, "
        f"{times('$value')} what its error budget allows"
    )


def slo_counts() -> str:
    """``In the last hour 160 of 2100 attempts failed checkout-success.``."""
    bad = 'slo_window_events{slo=%q,window="1h",result="bad",%s}'
    every = 'sum(slo_window_events{slo=%q,window="1h",%s})'
    return (
        f"In the last hour {one(bad, SLO, COUNT, 'some')} of "
        f"{one(every, SLO, COUNT, 'all')} {_UNIT} failed {{{{ $labels.slo }}}}."
    )


def pain() -> str:
    """Who was hit and what it costs, in the last hour; nothing where nobody knows."""
    users = found(
        'outcome_users{journey=%q,outcome="bad",window="1h",%s} > 0',
        JOURNEY,
        f" {{{{ . | {VALUE} | {COUNT} }}}} users were hit.",
    )
    money = listed("{{ .Labels.currency }} {{ .Value | printf `%.0f` }}")
    of_lost, of_at_risk = (f'$labels.journey "{state}" $exporter' for state in ("lost", "at_risk"))
    lost = found(f"{_MONEY} > 0", of_lost, f", {money} lost for good")
    at_risk = found(f"{_MONEY} > 0", of_at_risk, f" {money} at risk{lost}.")
    return users + at_risk


def budget() -> str:
    """``Error budget: 62 % left, gone in 3d 4h at the rate of the last 6 hours.``."""
    left = one("100 * slo_error_budget_remaining_ratio{slo=%q,%s}", SLO, PERCENT)
    gone = one("slo_error_budget_exhaustion_seconds{slo=%q,%s}", SLO, LENGTH)
    return found(
        "-100 * (slo_error_budget_remaining_ratio{slo=%q,%s} <= 0)",
        SLO,
        f"Error budget: spent, and overspent by {{{{ . | {VALUE} | {COUNT} }}}} %.",
        f"Error budget: {left} left, gone in {gone} at the rate of the last 6 hours.",
    )


def causes() -> str:
    """Top causes with their share, since when, and what changed; or that none is known."""
    named = (
        "{{ .Labels.cause_service }}"
        "{{ with .Labels.cause_operation }} / {{ . }}{{ end }}"
        "{{ with .Labels.cause_version }} {{ . }}{{ end }}"
        "{{ with .Labels.cause_kind }}, "
        '{{ if eq . "error" }}errors{{ else if eq . "latency" }}slowness'
        '{{ else if eq . "missing" }}missing events{{ else }}{{ . }}{{ end }}{{ end }}'
    )
    since = found(
        f"outcome_cause_since_seconds{{journey=%q,{_CAUSE},%s}}",
        f"$labels.journey {_CAUSE_VALUES} $exporter",
        f", for {{{{ . | {VALUE} | {LENGTH} }}}}",
    )
    change = found(
        'time() - outcome_change_info{service=%q,version=%q,version!="",%s}',
        ".Labels.cause_service .Labels.cause_version $exporter",
        "{{ range . }}; {{ .Labels.kind }} {{ .Labels.version }} came "
        f"{{{{ .Value | {LENGTH} }}}} ago"
        "{{ with .Labels.previous_version }}, after {{ . }}{{ end }}{{ end }}",
    )
    cause = (
        f"{{{{ .Value | {RATIO} }}}} in the last {{{{ .Labels.window }}}} "
        f"blamed on {named}{since}{change}"
    )
    return found(
        _top(3),
        JOURNEY,
        f"Cause: {listed(cause, '. Then ')}.",
        "Cause: unattributed.",
    )


def reasons() -> str:
    """How bad attempts ended, and how none did yet: an error is final once no event can help."""
    unseen = found(
        f"sum by (reason) ({_BAD}) < 0.5",
        JOURNEY,
        f' None yet: {{{{ with sortByLabel "reason" . }}}}'
        f"{listed('{{ .Labels.reason }}')}{{{{ end }}}}.",
    )
    # A page may come before any reason is final; what is not seen yet is not ruled out.
    return found(
        f"sort_desc(sum by (reason) ({_BAD}) >= 0.5)",
        JOURNEY,
        f"By reason: {listed('{{ .Labels.reason }} {{ .Value | printf `%.0f` }}')}.{unseen}",
    )


def _top(number: int) -> str:
    """Who is blamed for the journey now, top first."""

    def read(family: Family, **matchers: str) -> str:
        return f'{family.name}{{journey=%[1]q,window="{matchers["window"]}",%[2]s}}'

    return f"sort_desc(topk({number}, {alerting.causes(read)}))"


def dashboard_url(base: str, variables: dict[str, str]) -> str:
    """A dashboard around now, with its variables set; they are names and labels of the alert."""
    if not base:
        return ""

    def moment(seconds_ago: int) -> str:
        query = f"(time() - {seconds_ago}) * 1000" if seconds_ago else "time() * 1000"
        return f'{{{{ with query "{query}" }}}}{{{{ . | {VALUE} | {COUNT} }}}}{{{{ end }}}}'

    parameters = "".join(
        f"var-{name}={{{{ $labels.{value} | urlquery }}}}&" for name, value in variables.items()
    )
    separator = "&" if "?" in base else "?"
    return f"{base}{separator}{parameters}from={moment(_DASHBOARD_SECONDS)}&to={moment(0)}"


def trace_url(base: str) -> str:
    """A search for traces of the top cause; empty where none is known."""
    if not base:
        return ""
    url = base
    for name in ("service", "operation", "version"):
        url = url.replace(f"{{{name}}}", f'{{{{ . | first | label "cause_{name}" | urlquery }}}}')
    return found(_top(1), JOURNEY, url)
