"""Every alert: that it fires, with its labels and texts to the letter, and when it stays silent."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.programs import require
from tests.rules import timeline
from tests.rules.promtool import Firing, verify

from outcome_exporter import config
from outcome_exporter.rules import files

ROOT = Path(__file__).parents[2]
CONFIG = config.load(ROOT / "examples" / "checkout.yaml")
JOURNEY, SLO = CONFIG.slos[0]
RULES = files.rules(CONFIG)["outcomes.yaml"]
PER_SLO = files.rules(CONFIG, per_slo=True)["outcomes.yaml"]
NAMES = sorted(set(re.findall("alert: (.*)", RULES)))

TITLE = "A customer pays for the cart"
RUNBOOK = "https://runbooks.example.com/checkout"
TRACE = "https://traces.example.com/search?service=payment&operation=POST+%2Fcharge"
TARGET = {"job": "outcome-exporter"}
OWNED = TARGET | {"journey": "checkout", "owner": "payments"}

CAUSE = {
    "cause_service": "payment",
    "cause_operation": "POST /charge",
    "cause_version": "1.4.2",
    "cause_kind": "error",
}
SECOND_CAUSE = {
    "cause_service": "inventory",
    "cause_operation": "GET /stock",
    "cause_version": "2.3.0",
    "cause_kind": "latency",
}
CAUSES = (
    "Cause: 87 % in the last {window} blamed on payment / POST /charge 1.4.2, errors, for {since}; "
    "version 1.4.2 came {ago} ago, after 1.4.1. "
    "Then 13 % in the last {window} blamed on inventory / GET /stock 2.3.0, slowness."
)


@pytest.fixture(scope="module")
def promtool():
    return require("promtool")


@pytest.fixture
def check(promtool, tmp_path):
    def run(series, expected, rules=RULES, **options):
        verify(promtool, tmp_path, rules, series, expected, **options)

    return run


def minutes(at):
    return f"{at}m"


def silent(at, *names):
    """Expectations that none of these fires at a minute; without names: none at all."""
    return {(minutes(at), name): [] for name in names or NAMES}


def dashboard(at, **variables):
    given = "".join(f"var-{name}={value}&" for name, value in variables.items())
    end = at * 60_000
    return f"{CONFIG.alerts.dashboard}?{given}from={end - 3 * 3_600_000}&to={end}"


def history(*parts, before=(100, 0), shown=0):
    """Good and bad events per minute: a month of `before`, then parts of (minutes, good, bad).

    The test's clock begins with the parts, or `shown` minutes before their end.
    """
    month = SLO.window // 60_000_000_000
    pieces = [(month, *before), *parts]
    lengths, goods, bads = zip(*pieces, strict=True)
    shown = shown or sum(lengths[1:])
    return np.repeat(goods, lengths).astype(float), np.repeat(bads, lengths).astype(float), shown


def slo_series(*parts, before=(100, 0), shown=0):
    good, bad, shown = history(*parts, before=before, shown=shown)
    found = timeline.gauges(CONFIG, JOURNEY, SLO, good, bad, shown=shown)
    return alive() | {name: timeline.values(numbers) for name, numbers in found.items()}


def alive():
    """An exporter that is well."""
    return {timeline.series("outcome_exporter_ready"): "1x2000"} | journey_info()


def journey_info():
    name = timeline.series(
        "outcome_journey_info",
        journey="checkout",
        owner="payments",
        title=TITLE,
        runbook_url=RUNBOOK,
    )
    return {name: "1x2000"}


def attempts(**values):
    return {
        timeline.series(
            "outcome_attempts_total",
            journey="checkout",
            outcome="good" if reason == "ok" else "bad",
            reason=reason,
            tier="gold",
        ): value
        for reason, value in values.items()
    }


def pain():
    """What a checkout that fails costs, and whom."""
    return {
        timeline.series(
            "outcome_value_total", journey="checkout", currency="USD", state="at_risk"
        ): "0+600x200",
        timeline.series(
            "outcome_value_total", journey="checkout", currency="USD", state="lost"
        ): "0+450x200",
        timeline.series("outcome_users", journey="checkout", outcome="bad", window="1h"): "148x200",
        **attempts(
            ok="0+90x200", error="0+8x200", recovered="0+2x200", missed="0x200", slow="0x200"
        ),
    }


def causes(window="5m"):
    share = {"journey": "checkout", "window": window}
    return {
        timeline.series("outcome_cause_share", **share, **CAUSE): "0.87x200",
        timeline.series("outcome_cause_share", **share, **SECOND_CAUSE): "0.13x200",
        timeline.series("outcome_cause_since_seconds", journey="checkout", **CAUSE): "0+60x200",
        # A Unix time: two minutes before the test's first one.
        timeline.series(
            "outcome_change_info",
            service="payment",
            kind="version",
            version="1.4.2",
            previous_version="1.4.1",
        ): "-120x200",
    }


# Error budgets ------------------------------------------------------------------------------------

FAST, SLOW, SPENT = "OutcomeBudgetBurnsFast", "OutcomeBudgetBurns", "OutcomeBudgetSpent"


@pytest.mark.parametrize("rules", [RULES, PER_SLO], ids=["generic", "per-slo"])
def test_a_burning_budget_pages_with_all_that_the_next_step_needs(check, rules):
    # 10 % of errors burn 20 times too fast; the hour is above 13.44 once 41 of its minutes are bad.
    page = Firing(
        OWNED | {"slo": "checkout-success", "severity": "page"},
        {
            "summary": f"{TITLE}: 7.67 % of attempts failed checkout-success in the "
            "last 1h, 15× what its error budget allows",  # noqa: RUF001
            "description": "In the last hour 460 of 6000 attempts failed checkout-success. "
            "148 users were hit. USD 27000 at risk, USD 20250 lost for good.\n"
            "Error budget: 97.7 % left, gone in 10d 16h at the rate of the last 6 hours.\n"
            + CAUSES.format(window="5m", since="45m", ago="47m")
            + "\nBy reason: error 360, recovered 90. None yet: missed, slow.",
            "runbook_url": RUNBOOK,
            "dashboard_url": dashboard(45, journey="checkout", slo="checkout-success"),
            "trace_url": TRACE,
        },
    )
    check(
        slo_series((60, 90, 10)) | pain() | causes(),
        silent(39, FAST, SLOW) | {("45m", FAST): [page], ("45m", SLOW): []},
        rules,
    )


@pytest.mark.parametrize("rules", [RULES, PER_SLO], ids=["generic", "per-slo"])
def test_a_page_speaks_of_its_own_exporter_and_of_no_other(check, rules):
    """One Prometheus reads staging, too, where the same SLO fares otherwise."""
    ours = slo_series((60, 90, 10)) | pain() | causes()
    theirs = slo_series((60, 99, 1)) | pain() | causes()
    staging = {
        name.replace('job="', 'namespace="a-staging",job="')
        .replace(TITLE, "Staging")
        .replace("payment", "staging"): re.sub(r"^0\+", "0+7", values)
        for name, values in theirs.items()
    }
    alone, both = (said_by(check, series, 45, rules) for series in (ours, ours | staging))
    assert both == alone
    assert "460 of 6000" in both


@pytest.mark.parametrize("rules", [RULES, PER_SLO], ids=["generic", "per-slo"])
@pytest.mark.parametrize("unit", ["minutes", "events"])
def test_a_page_counts_what_its_slo_counts(check, rules, unit):
    series = slo_series((60, 90, 10))
    counted = {
        name.replace('unit="attempts"', f'unit="{unit}"'): values for name, values in series.items()
    }
    said = said_by(check, counted, 45, rules)
    assert f"7.67 % of {unit} failed checkout-success in the last 1h" in said
    assert f"460 of 6000 {unit} failed checkout-success" in said
    assert "attempts" not in said
    # An exporter of before does not say what it counts.
    unsaid = {name.replace(',unit="attempts"', ""): values for name, values in series.items()}
    assert "460 of 6000 events failed checkout-success" in said_by(check, unsaid, 45, rules)


def test_who_hurts_now_is_named_and_who_hurt_within_the_hour_only_once_nobody_does(check):
    earlier = {
        timeline.series(
            "outcome_cause_share", journey="checkout", window="1h", **SECOND_CAUSE
        ): "0.9x200",
        timeline.series(
            "outcome_cause_share", journey="checkout", window="5m", **CAUSE
        ): "0.8x44 stale",
    }
    series = slo_series((60, 90, 10)) | earlier
    now = "Cause: 80 % in the last 5m blamed on payment / POST /charge 1.4.2, errors."
    then = "Cause: 90 % in the last 1h blamed on inventory / GET /stock 2.3.0, slowness."
    for at, cause in ((44, now), (45, then)):
        said = said_by(check, series, at)
        assert cause in said, said
        assert said.count("blamed on") == 1


def test_before_the_first_reason_is_final_the_message_counts_none(check):
    series = slo_series((60, 90, 10)) | attempts(error="0x60", missed="0x60", slow="0x60")
    assert "None yet" not in said_by(check, series, 45)


def said_by(check, series, at, rules=RULES):
    """What a page says, in promtool's words."""
    with pytest.raises(AssertionError) as raised:
        check(series, silent(at, FAST), rules)
    return str(raised.value)


def test_without_causes_or_money_the_message_says_what_is_known(check):
    page = Firing(
        OWNED | {"slo": "checkout-success", "severity": "page"},
        {
            "summary": f"{TITLE}: 7.67 % of attempts failed checkout-success in the "
            "last 1h, 15× what its error budget allows",  # noqa: RUF001
            "description": "In the last hour 460 of 6000 attempts failed checkout-success.\n"
            "Error budget: 97.7 % left, gone in 10d 16h at the rate of the last 6 hours.\n"
            "Cause: unattributed.\n",
            "runbook_url": RUNBOOK,
            "dashboard_url": dashboard(45, journey="checkout", slo="checkout-success"),
            "trace_url": "",
        },
    )
    check(slo_series((60, 90, 10)), {("45m", FAST): [page]})


@pytest.mark.parametrize("rules", [RULES, PER_SLO], ids=["generic", "per-slo"])
def test_a_short_burst_wakes_nobody(check, rules):
    # Two minutes of nothing but errors: 5 minutes burn at 80, the hour at 6.7.
    series = slo_series((2, 0, 100), (120, 100, 0))
    check(series, {k: v for at in (2, 4, 30) for k, v in silent(at).items()}, rules)


@pytest.mark.parametrize("rules", [RULES, PER_SLO], ids=["generic", "per-slo"])
def test_two_bad_attempts_in_a_quiet_night_wake_nobody_but_a_third_does(check, rules):
    quiet = slo_series((1, 0, 1), (9, 0, 0), (1, 0, 1), (9, 0, 0), (40, 0, 0), before=(0, 0))
    check(quiet, {k: v for at in (1, 11, 14) for k, v in silent(at, FAST, SLOW).items()}, rules)
    third = slo_series((1, 0, 1), (9, 0, 0), (1, 0, 1), (9, 0, 0), (1, 0, 1), before=(0, 0))
    fires = Firing(
        OWNED | {"slo": "checkout-success", "severity": "page"},
        {
            "summary": f"{TITLE}: 100 % of attempts failed checkout-success in the "
            "last 1h, 200× what its error budget allows",  # noqa: RUF001
            "description": "In the last hour 3 of 3 attempts failed checkout-success.\n"
            "Error budget: spent, and overspent by 19900 %.\nCause: unattributed.\n",
            "runbook_url": RUNBOOK,
            "dashboard_url": dashboard(20, journey="checkout", slo="checkout-success"),
            "trace_url": "",
        },
    )
    check(third, silent(19, FAST) | {("20m", FAST): [fires]}, rules)


def gated(own=None):
    """The example with `min_events: 10`, and perhaps another number for its first SLO."""
    data = CONFIG.model_dump(by_alias=True, exclude_unset=True)
    data["alerts"] = data.get("alerts", {}) | {"min_events": 10}
    if own is not None:
        data["journeys"][0]["slos"][0]["alerts"] = {"min_events": own}
    return config.Config.model_validate(data)


def gated_series(configuration, *parts):
    good, bad, shown = history(*parts, before=(0, 0))
    found = timeline.gauges(configuration, *configuration.slos[0], good, bad, shown=shown)
    return alive() | {name: timeline.values(numbers) for name, numbers in found.items()}


@pytest.mark.parametrize("per_slo", [False, True], ids=["generic", "per-slo"])
def test_nine_attempts_wake_nobody_where_ten_are_wanted_but_a_tenth_does(check, per_slo):
    few = gated()
    rules = files.rules(few, per_slo=per_slo)["outcomes.yaml"]
    # Three of nine fail: the hour burns at 67 times what is allowed.
    series = gated_series(few, (1, 6, 3), (2, 0, 0), (1, 1, 0), (4, 0, 0))
    check(series, silent(2, FAST, SLOW), rules)
    with pytest.raises(AssertionError, match=f'alertname="{FAST}"'):
        check(series, silent(3, FAST), rules)


@pytest.mark.parametrize("per_slo", [False, True], ids=["generic", "per-slo"])
def test_an_slo_may_want_more_or_fewer_events_than_the_others(check, per_slo):
    for own, fires in ((0, True), (9, True), (11, False)):
        configuration = gated(own)
        rules = files.rules(configuration, per_slo=per_slo)["outcomes.yaml"]
        series = gated_series(configuration, (1, 6, 3), (4, 0, 0))
        if fires:
            with pytest.raises(AssertionError, match=f'alertname="{FAST}"'):
                check(series, silent(2, FAST), rules)
        else:
            check(series, silent(2, FAST, SLOW), rules)


def test_rules_that_are_newer_than_the_exporter_still_page(check):
    series = {
        name: values
        for name, values in slo_series((60, 90, 10)).items()
        if "slo_alert_min_events" not in name
    }
    with pytest.raises(AssertionError, match=f'alertname="{FAST}"'):
        check(series, silent(45, FAST))


@pytest.mark.parametrize("rules", [RULES, PER_SLO], ids=["generic", "per-slo"])
def test_a_page_ends_soon_after_the_errors_and_is_kept_for_five_minutes(check, rules):
    series = slo_series((60, 90, 10), (60, 100, 0)) | pain() | causes()
    # Errors end at minute 60, the short window is below 13.44 from 61 on, keep_firing_for is 5m.
    assert fires_at(check, series, 65, rules)
    check(series, silent(67, FAST, SLOW), rules)


def fires_at(check, series, at, rules):
    with pytest.raises(AssertionError, match=f'alertname="{FAST}"'):
        check(series, silent(at, FAST), rules)
    return True


@pytest.mark.parametrize("rules", [RULES, PER_SLO], ids=["generic", "per-slo"])
def test_a_slow_burn_opens_a_ticket_and_no_page(check, rules):
    # 2 % burn at 4: more than 2.8 of the tier of a day once 1,009 of its minutes are bad.
    ticket = Firing(
        OWNED | {"slo": "checkout-success", "severity": "ticket"},
        {
            "summary": f"{TITLE}: 1.46 % of attempts failed checkout-success in the "
            "last 1d, 2.9× what its error budget allows",  # noqa: RUF001
            "description": "In the last hour 120 of 6000 attempts failed checkout-success.\n"
            "Error budget: 89.6 % left, gone in 6d 6h at the rate of the last 6 hours.\n"
            "Cause: unattributed.\n",
            "runbook_url": RUNBOOK,
            "dashboard_url": dashboard(50, journey="checkout", slo="checkout-success"),
            "trace_url": "",
        },
    )
    check(
        slo_series((1100, 98, 2), shown=100),
        silent(3, FAST, SLOW) | {("50m", SLOW): [ticket], ("50m", FAST): []},
        rules,
    )


@pytest.mark.parametrize("rules", [RULES, PER_SLO], ids=["generic", "per-slo"])
def test_one_problem_is_one_alert_whichever_tiers_fire(check, rules):
    # 60 % of errors for a day: every tier of every severity fires.
    series = slo_series((1440, 40, 60), shown=20)
    with pytest.raises(AssertionError) as raised:
        check(series, silent(15), rules)
    said = str(raised.value)
    assert said.count(f'alertname="{FAST}"') == 1
    assert f'alertname="{SLOW}"' not in said


@pytest.mark.parametrize("rules", [RULES, PER_SLO], ids=["generic", "per-slo"])
def test_a_restart_elsewhere_is_the_same_alert(check, rules):
    before = slo_series((60, 90, 10))
    after = {
        name.replace("exporter:9464", "other:9464"): "_x49 " + timeline.values(np.full(10, value))
        for name, value in last_values((60, 90, 10)).items()
    }
    cut = {name: f"{values} " for name, values in before.items()}
    series = {name: truncated(values, 48) for name, values in cut.items()} | after
    with pytest.raises(AssertionError) as raised:
        check(series, silent(52, FAST), rules)
    assert str(raised.value).count(f'alertname="{FAST}"') == 1
    assert "instance=" not in str(raised.value)


def last_values(*parts):
    good, bad, shown = history(*parts)
    found = timeline.gauges(CONFIG, JOURNEY, SLO, good, bad, shown=shown)
    return {name: numbers[-1] for name, numbers in found.items()}


def truncated(values, length):
    """The first values of promtool's notation, then stale."""
    numbers = []
    for part in values.split():
        start, _, rest = part.partition("+0x")
        if "x" in start:
            start, rest = start.split("x")
        numbers += [start] * (int(rest) + 1 if rest else 1)
    return " ".join([*numbers[:length], "stale"])


@pytest.mark.parametrize("rules", [RULES, PER_SLO], ids=["generic", "per-slo"])
def test_a_spent_budget_opens_a_ticket(check, rules):
    series = slo_series((30, 100, 0), before=(99.4, 0.6))
    ticket = Firing(
        OWNED | {"slo": "checkout-success", "severity": "ticket"},
        {
            "summary": f"{TITLE}: the error budget of checkout-success is spent",
            "description": "In the last hour 18 of 6000 attempts failed checkout-success.\n"
            "Error budget: spent, and overspent by 20 %.\nCause: unattributed.\n",
            "runbook_url": RUNBOOK,
            "dashboard_url": dashboard(30, journey="checkout", slo="checkout-success"),
            "trace_url": "",
        },
    )
    check(series, {("30m", SPENT): [ticket]}, rules)
    check(slo_series((30, 100, 0), before=(99.6, 0.4)), silent(29, SPENT), rules)


@pytest.mark.parametrize("per_slo", [False, True], ids=["generic", "per-slo"])
def test_a_budget_is_not_called_spent_while_it_has_hardly_begun(check, per_slo):
    def fires(configuration, *parts):
        rules = files.rules(configuration, per_slo=per_slo)["outcomes.yaml"]
        good, bad, shown = history(*parts, before=(0, 0))
        found = timeline.gauges(configuration, *configuration.slos[0], good, bad, shown=shown)
        series = alive() | {name: timeline.values(numbers) for name, numbers in found.items()}
        try:
            check(series, silent(5, SPENT), rules)
        except AssertionError as error:
            assert f'alertname="{SPENT}"' in str(error)  # noqa: PT017 - no other fault
            return True
        return False

    # The first minutes after a start, or of a calendar month.
    assert not fires(CONFIG, (1, 40, 1), (10, 0, 0))
    assert not fires(CONFIG, (1, 39, 2), (10, 0, 0))
    assert fires(CONFIG, (1, 38, 3), (10, 0, 0))
    assert not fires(gated(), (1, 6, 3), (10, 0, 0))
    assert fires(gated(), (1, 7, 3), (10, 0, 0))


@pytest.mark.parametrize("rules", [RULES, PER_SLO], ids=["generic", "per-slo"])
def test_no_series_is_no_alert_but_that_the_exporter_is_gone(check, rules):
    others = [name for name in NAMES if name != "OutcomeExporterDown"]
    check({timeline.series("up"): "1x60"}, silent(50, *others), rules)


# Journeys -----------------------------------------------------------------------------------------

NO_CAUSE = "Cause: unattributed."


def journey_texts(at, summary, description, trace=""):
    return {
        "summary": f"{TITLE}: {summary}",
        "description": description,
        "runbook_url": RUNBOOK,
        "dashboard_url": dashboard(at, journey="checkout"),
        "trace_url": trace,
    }


SILENT = "OutcomeSilentFailures"


def test_silent_failures_open_a_ticket(check):
    series = alive() | attempts(ok="0+95x200", missed="0+5x200", error="0+1x200", slow="0x200")
    ticket = Firing(
        OWNED | {"severity": "ticket"},
        journey_texts(
            60,
            "fails silently, 4.95 % of attempts went without an error and never got what they "
            "came for",
            f"In the last hour 300 attempts were missed.\n{NO_CAUSE}\n"
            "By reason: missed 300, error 60. None yet: slow.",
        ),
    )
    check(series, {("60m", SILENT): [ticket]})


def test_attempts_that_go_missing_as_usual_are_no_alert(check):
    # Three of ten never finish, today as yesterday.
    series = alive() | attempts(ok="0+280x400", missed="0+120x400")
    check(series, silent(1500, SILENT), interval="4m")


def test_twice_as_many_missing_as_usual_are_one(check):
    series = alive() | attempts(
        ok="0+392x360 141120+280x50", missed="0+8x360 2880+120x50", error="0x410"
    )
    with pytest.raises(AssertionError, match=SILENT):
        check(series, silent(1500, SILENT), interval="4m")


def test_missing_attempts_beside_more_errors_are_not_silent(check):
    check(alive() | attempts(ok="0+80x200", missed="0+5x200", error="0+15x200"), silent(60, SILENT))


def test_two_missing_attempts_are_no_alert(check):
    check(alive() | attempts(ok="0x60", missed="0x30 2x30"), silent(60, SILENT))


def test_few_attempts_of_which_most_go_missing_are_none_where_more_are_wanted(check):
    series = alive() | attempts(ok="0x30 5x30", missed="0x30 4x30", error="0x60")
    rules = files.rules(gated())["outcomes.yaml"]
    check(series, silent(45, SILENT), rules)
    with pytest.raises(AssertionError, match=SILENT):
        check(series, silent(45, SILENT))


VALUE = "OutcomeValueAtRisk"


def money(per_minute, threshold="10000x200"):
    return {
        timeline.series(
            "outcome_value_total", journey="checkout", currency="USD", state="at_risk"
        ): f"0+{per_minute}x60 {per_minute * 60}x60",
        timeline.series(
            "outcome_alert_value_threshold", journey="checkout", currency="USD"
        ): threshold,
    }


def test_money_at_risk_above_the_configured_amount_pages(check):
    page = Firing(
        OWNED | {"currency": "USD", "severity": "page"},
        journey_texts(
            60,
            "USD 12000 at risk in the last hour",
            f"In the last hour: USD 12000 at risk.\n{NO_CAUSE}\n",
        ),
    )
    series = alive() | money(200)
    # Recovery: an hour after the last loss nothing is at risk.
    check(series, {("60m", VALUE): [page]} | silent(120, VALUE))


def test_money_below_the_amount_or_without_one_is_no_alert(check):
    check(alive() | money(160), silent(60, VALUE))
    check(alive() | money(200, threshold="_x200"), silent(60, VALUE))


CHANGE = "OutcomeChangeBurnsBudget"


@pytest.mark.parametrize("window", ["5m", "1h"])
def test_a_change_that_burns_budget_opens_a_ticket(check, window):
    ticket = Firing(
        OWNED | {"cause_service": "payment", "cause_version": "1.4.2", "severity": "ticket"},
        journey_texts(
            10,
            "payment 1.4.2 burns the error budget since it came",
            "It came 12m ago, and explains 87 % of what goes wrong. Rolling it back is worth a "
            f"thought.\n{CAUSES.format(window=window, since='10m', ago='12m')}\n",
            TRACE,
        ),
    )
    series = slo_series((20, 90, 10)) | causes(window)
    check(series, {("10m", CHANGE): [ticket]})


def test_an_old_change_a_small_share_or_a_budget_that_lasts_is_no_alert(check):
    check(slo_series((150, 90, 10)) | causes(), silent(130, CHANGE))
    check(slo_series((20, 100, 0)) | causes(), silent(10, CHANGE))
    few = {name: values.replace("0.87", "0.4") for name, values in causes().items()}
    check(slo_series((20, 90, 10)) | few, silent(10, CHANGE))


def test_a_change_that_burns_a_budget_of_too_few_events_is_no_alert(check):
    # 9 events in the hour, of which 3 are bad.
    configuration = gated()
    rules = files.rules(configuration)["outcomes.yaml"]
    for extra, fires in ((0, False), (1, True)):
        series = gated_series(configuration, (1, 6 + extra, 3), (10, 0, 0)) | causes()
        if fires:
            with pytest.raises(AssertionError, match=CHANGE):
                check(series, silent(5, CHANGE), rules)
        else:
            check(series, silent(5, CHANGE), rules)


VANISHED = "OutcomeTrafficVanished"


def test_a_journey_that_nobody_tries_any_more_pages(check):
    page = Firing(
        OWNED | {"severity": "page"},
        journey_texts(
            80,
            "nobody tries any more",
            "No attempt was judged for 15 minutes; in the hour before there were 110. Either "
            "customers cannot reach it, or its telemetry does not reach the exporter.",
        ),
    )
    series = alive() | attempts(ok="0+2x60 120x40")
    check(series, silent(70, VANISHED) | {("80m", VANISHED): [page]})


def test_a_quiet_night_or_an_exporter_that_lags_is_no_vanished_traffic(check):
    check(alive() | attempts(ok="0+0.5x60 30x40"), silent(80, VANISHED))
    lag = {timeline.series("outcome_exporter_log_lag_seconds"): "600x100"}
    check(alive() | lag | attempts(ok="0+2x60 120x40"), silent(80, VANISHED))


def received(**values):
    return {
        timeline.series("outcome_exporter_received_items_total", signal=signal): value
        for signal, value in values.items()
    }


EXPORTER = TARGET | {"owner": "observability"}


def self_texts(at, summary, description):
    return {
        "summary": summary,
        "description": description,
        "dashboard_url": dashboard(at),
    }


STOPPED = "OutcomeEventsStopped"


def test_business_events_that_stop_while_requests_go_on_page(check):
    page = Firing(
        EXPORTER | {"severity": "page"},
        self_texts(
            80,
            "Business events stopped, although requests go on",
            "No business event came for 15 minutes. Either nothing succeeds any more, or events "
            "do not reach the exporter: attempts that wait for one will count as missed when "
            "their time is up. Look at whoever sends them first.",
        ),
    )
    series = alive() | received(events="0+2x60 120x40", traces="0+100x100")
    check(series, silent(70, STOPPED) | {("80m", STOPPED): [page]})
    everything = alive() | received(events="0+2x60 120x40", traces="0+100x60 6000x40")
    check(everything, silent(80, STOPPED))


JOIN = "OutcomeJoinRateDropped"


def unmatched(value):
    name = timeline.series("outcome_events_unmatched_total", type="shop.order.completed")
    return {name: value}


def test_events_that_no_longer_find_their_attempts_open_a_ticket(check):
    ticket = Firing(
        EXPORTER | {"type": "shop.order.completed", "severity": "ticket"},
        self_texts(
            60,
            "shop.order.completed: events no longer find the attempts that they belong to",
            "30 % of the events of the last hour were of this type and found no attempt, more "
            "than twice the usual share. Was a join key renamed, in the spans or in the events? "
            "Their attempts count as missed.",
        ),
    )
    series = alive() | received(events="0+10x100") | unmatched("0+3x100")
    check(series, {("60m", JOIN): [ticket]})
    usual = alive() | received(events="0+40x400") | unmatched("0+12x400")
    check(usual, silent(1500, JOIN), interval="4m")
    few = alive() | received(events="0x30 20x30") | unmatched("0x30 9x30")
    check(few, silent(60, JOIN))


# The exporter itself ------------------------------------------------------------------------------


def test_an_exporter_that_is_down_pages(check):
    texts = self_texts(
        40,
        "outcome-exporter is down: nobody would be told if customers were hurt",
        "Prometheus has not read its series for 5 minutes. What it acknowledged is safe in its "
        "log, and is counted once it runs again.",
    )
    down = {timeline.series("outcome_exporter_ready"): "1x30 stale"}
    name = "OutcomeExporterDown"
    page = Firing(EXPORTER | {"severity": "page"}, texts)
    check(down, silent(29, name) | silent(34, name) | {("40m", name): [page]})
    never = Firing({"owner": "observability", "severity": "page"}, texts)
    check({timeline.series("up"): "0x60"}, {("40m", name): [never]})
    check({timeline.series("outcome_exporter_ready"): "1x60"}, silent(40, name))


SELF = {
    "OutcomeExporterLagging": (
        {
            timeline.series("outcome_exporter_log_lag_seconds"): "0x10 90x50",
            timeline.series("outcome_exporter_log_lag_bytes"): "3145728x60",
        },
        {},
        "outcome-exporter is 1m 30s behind",
        (
            "It receives more than it can judge; alerts about customers come late by as much. 3MiB "
            "wait in its log."
        ),
    ),
    "OutcomeExporterRefusesData": (
        {
            timeline.series(
                "outcome_exporter_requests_total",
                receiver="grpc",
                signal="traces",
                result="overloaded",
            ): "0+6x60",
            timeline.series(
                "outcome_exporter_requests_total",
                receiver="grpc",
                signal="traces",
                result="accepted",
            ): "0+6x60",
            timeline.series(
                "outcome_exporter_requests_total",
                receiver="http",
                signal="events",
                result="aborted",
            ): "0+6x60",
        },
        {"receiver": "grpc", "signal": "traces", "result": "overloaded"},
        "outcome-exporter refuses traces: overloaded",
        (
            "60 requests over grpc in 10 minutes. Senders try again where it is overloaded or "
            "failed; what is invalid or too large is lost, and its senders' logs say why."
        ),
    ),
    "OutcomeExporterCardinalityCapped": (
        {timeline.series("outcome_exporter_overflow_total", what="label_value"): "0x10 0+1x50"},
        {"what": "label_value"},
        "outcome-exporter reached a limit: label_value",
        (
            "29 in the last hour. Label values beyond it read `other`, and what is remembered to "
            "tell duplicates is forgotten early. Raise the limit under `limits`, or keep fewer "
            "labels."
        ),
    ),
    "OutcomeExporterCheckpointFails": (
        {timeline.series("outcome_exporter_checkpoint_failures_total"): "0+1x60"},
        {},
        "outcome-exporter cannot write its checkpoint",
        (
            "Nothing is lost: its log keeps what the checkpoint would hold. But the log grows, and "
            "a restart takes longer. Is the disk full?"
        ),
    ),
    "OutcomeExporterClockSkew": (
        {timeline.series("outcome_exporter_skewed_times_total", what="span_ahead"): "0+2x60"},
        {"what": "span_ahead"},
        "Times that cannot be: span_ahead",
        (
            "80 in the last hour. A sender's clock is wrong, or it delivers what is older than the "
            "longest window. Times ahead are taken as their arrival's; what is too old is in no "
            "window."
        ),
    ),
    "OutcomeExporterConfigRefused": (
        {timeline.series("outcome_exporter_config_last_reload_successful"): "1x10 0x50"},
        {},
        "outcome-exporter runs on an old configuration: the new one cannot work",
        "`outcome-exporter check -c FILE` says why.",
    ),
}


@pytest.mark.parametrize("name", SELF)
def test_an_exporter_in_trouble_opens_a_ticket(check, name):
    series, labels, summary, description = SELF[name]
    ticket = Firing(
        EXPORTER | labels | {"severity": "ticket"}, self_texts(40, summary, description)
    )
    check(alive() | series, {("40m", name): [ticket]})


@pytest.mark.parametrize("name", SELF)
def test_an_exporter_that_is_well_opens_none(check, name):
    series = {s: "1x60" if "successful" in s else "0x60" for s in SELF[name][0]}
    check(alive() | series, silent(40, name))


def test_a_checkpoint_that_is_ten_minutes_old_is_one_that_fails(check):
    old = {timeline.series("outcome_exporter_checkpoint_timestamp_seconds"): "600x60"}
    name = "OutcomeExporterCheckpointFails"
    check(alive() | old, silent(15, name))
    with pytest.raises(AssertionError, match=name):
        check(alive() | old, silent(25, name))


def test_a_checkpoint_that_is_not_due_yet_is_none_that_fails(check):
    rarely = config.Config.model_validate({"storage": {"checkpoint": "15m"}})
    rules = files.rules(rarely)["outcomes.yaml"]
    old = {timeline.series("outcome_exporter_checkpoint_timestamp_seconds"): "600x60"}
    name = "OutcomeExporterCheckpointFails"
    check(alive() | old, silent(25, name) | silent(39, name), rules)
    with pytest.raises(AssertionError, match=name):
        check(alive() | old, silent(41, name), rules)


def test_every_alert_is_tested_here():
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in NAMES if f'"{name}"' not in text] == []
    assert len(NAMES) == 16
