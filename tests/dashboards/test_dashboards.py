"""The dashboards as files: what Grafana and its linter ask of them, and that they are up to date.

The rules are those of grafana/dashboard-linter that apply, strict; where one does not, it is said.
"""

import json
import re
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import yaml
from tests import snapshots
from tests.dashboards.grafana import panels as panels_of
from tests.dashboards.grafana import queries

from outcome_exporter import cli, dashboards, exposition, series
from outcome_exporter.config import Config
from outcome_exporter.dashboards import foreign, judged, panels, promql, sdk, uids
from outcome_exporter.rules import files
from outcome_exporter.server import process_snapshot

ROOT = Path(__file__).parents[2]
FILES = dashboards.generate(None)
BOARDS = {name: json.loads(text) for name, text in FILES.items()}
EVERY = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
COUNTERS = {family.name for family in series.ALL if family.type == "counter"}
COUNTERS |= {f"{f.name}_bucket" for f in series.ALL if f.type == "histogram"}
COUNTERS |= {foreign.CONTAINER_CPU.name, foreign.SERVICE_GRAPH_REQUESTS.name}


def exprs(board):
    return [asked.expr for asked in queries(board)]


def test_the_committed_files_are_what_is_generated(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert files.stale(FILES, Path("dashboards")) == []
    assert {file.name for file in Path("dashboards").iterdir()} == set(FILES)


def test_check_names_the_files_that_differ(capsys, monkeypatch, tmp_path):
    files.write(FILES, tmp_path)
    changed, missing = sorted(FILES)[:2]
    (tmp_path / changed).write_text("{}")
    (tmp_path / missing).unlink()
    arguments = ["outcome-exporter", "generate", "dashboards", "--check", "-o", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 1
    assert said.count("differs; run this without --check") == 2
    assert changed in said
    assert missing in said
    assert not (tmp_path / missing).exists()


def test_uids_never_change():
    assert {board["uid"]: board["title"] for board in BOARDS.values()} == {
        "outcome-outcomes": "Outcomes",
        "outcome-journey": "Journey",
        "outcome-service": "Service",
        "outcome-budgets": "Error budgets",
        "outcome-exporter": "Exporter",
    }


@EVERY
def test_panels_have_numbers_of_their_own_that_follow_from_their_titles(board):
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(numbers) == len(set(numbers))
    assert all(panels._id(panel["title"]) == panel["id"] for panel in board["panels"])


@EVERY
def test_the_models_of_the_sdk_read_it_and_write_the_same(board):
    # What they always write as "inControlsMenu" is left out on purpose; see `panels`.
    again = json.loads(json.dumps(sdk.dashboard.Dashboard.from_json(board), cls=sdk.JSONEncoder))
    for link in again["links"]:
        assert link.pop("placement") == "inControlsMenu"
    assert again == board


@EVERY
def test_panels_lie_in_the_grid_in_reading_order_and_do_not_overlap(board):
    places = [panel["gridPos"] for panel in board["panels"]]
    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= panels.WIDTH
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    for before, after in pairwise(places):
        assert (before["y"], before["x"]) < (after["y"], after["x"])


@EVERY
def test_lint_not_editable_with_title_tags_time_and_refresh(board):
    assert board["editable"] is False
    assert board["description"]
    assert board["tags"] == [panels.TAG]
    assert board["time"]["to"] == "now"
    assert board["refresh"] == "1m"


@EVERY
def test_lint_the_data_source_is_a_variable_and_everything_uses_it(board):
    first = board["templating"]["list"][0]
    assert (first["name"], first["type"], first["query"]) == (
        "datasource", "datasource", "prometheus",
    )  # fmt: skip
    assert first["label"] == "Data source"
    for thing in (
        *panels_of(board),
        *(target for panel in panels_of(board) for target in panel["targets"]),
        *board["templating"]["list"][1:],
        *board["annotations"].get("list", []),
    ):
        assert thing["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@EVERY
def test_lint_variables_reload_with_the_time_range_and_have_a_label(board):
    for variable in board["templating"]["list"][1:]:
        assert variable["refresh"] == 2
        assert variable["label"]
        assert variable["definition"] == variable["query"]["query"]


@EVERY
def test_every_panel_asks_a_question_or_says_a_fact_and_explains_itself(board):
    for panel in panels_of(board):
        assert "?" in panel["title"]
        assert len(panel["description"]) > 40
        assert panel["description"].endswith(".")


@EVERY
def test_every_value_has_a_unit_thresholds_and_words_for_nothing(board):
    for panel in panels_of(board):
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"]
        assert defaults["thresholds"]["steps"][0]["value"] is None
        assert defaults["noValue"]
        if panel["type"] == "table" and len(panel["targets"]) > 1:
            units = [
                override
                for override in panel["fieldConfig"]["overrides"]
                if any(given["id"] == "unit" for given in override["properties"])
            ]
            assert len(units) == len(panel["targets"])


@EVERY
def test_lint_queries_name_the_exporter(board):
    # dashboard-linter asks for `job` and `instance` as variables that take many. An exporter is
    # one process whose pod is replaced, so its job is one value, and instances are summed up.
    own = re.compile(r"\b(?:outcome|slo|traces_span_metrics|process)_\w+\{")
    for expr in exprs(board):
        for match in own.finditer(expr):
            assert expr[match.end() :].startswith('job="$job"'), expr


@EVERY
def test_lint_every_counter_is_read_as_a_rate_or_a_growth(board):
    for expr in exprs(board):
        rest = re.sub(r"(rate|increase)\([\w]+\{[^}]*\}\[\$__(rate_interval|range)\]\)", "", expr)
        rest = re.sub(
            r"max without \(instance, pod\) \(([\w]+\{[^}]*\})\) - min without \(instance, pod\) "
            r"\(min_over_time\(\1\[\$__range:\$__interval\]\)\)",
            "",
            rest,
        )
        names = set(re.findall(r"\b([a-z_]+)\{", rest))
        assert not names & COUNTERS, expr


@EVERY
def test_lint_rates_take_grafanas_interval_and_ratios_divide_by_more_than_nothing(board):
    for expr in exprs(board):
        for interval in re.findall(r"rate\([^\[]*\[([^\]]*)\]", expr):
            assert interval == "$__rate_interval"
        if "histogram_quantile" in expr:
            assert expr.endswith(">= 0"), expr


@EVERY
def test_links_to_dashboards_lead_somewhere_and_carry_source_exporter_and_time(board):
    variables = {
        other["uid"]: {variable["name"] for variable in other["templating"]["list"]}
        for other in BOARDS.values()
    }
    for panel in panels_of(board):
        for override in panel["fieldConfig"]["overrides"]:
            for given in override["properties"]:
                for link in given["value"] if given["id"] == "links" else []:
                    if link["url"].startswith("/d/"):
                        uid = link["url"].removeprefix("/d/").partition("?")[0]
                        assert set(re.findall(r"var-(\w+)=", link["url"])) <= variables[uid]
                        for carried in ("datasource:queryparam", "job:queryparam", "__url_time"):
                            assert "${" + carried in link["url"]
    (all_of_them,) = board["links"]
    assert all_of_them["includeVars"]
    assert all_of_them["keepTime"]


def test_every_variable_that_is_used_is_there():
    for board in BOARDS.values():
        known = {variable["name"] for variable in board["templating"]["list"]}
        used = set(re.findall(r"\$(?!__)([a-z]\w*)", " ".join(exprs(board))))
        assert used <= known


def test_promises_without_an_owner_or_a_journey_are_among_all_error_budgets():
    variables = {v["name"]: v for v in BOARDS["outcome-budgets.json"]["templating"]["list"]}
    for name in ("owner", "journey"):
        assert re.fullmatch(variables[name]["allValue"], "")


@EVERY
def test_what_grafana_takes_of_a_query_for_a_variable_is_one_line(board):
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            assert re.fullmatch(r"(?:label_values\(.+, \w+|query_result\(.+)\)", query)


def test_points_of_bad_outcomes_and_of_blame_lead_to_traces():
    with_traces = [
        panel["title"]
        for board in BOARDS.values()
        for panel in panels_of(board)
        if any(target["exemplar"] for target in panel["targets"])
    ]
    assert with_traces == [
        "Which attempts fail? (per minute, with traces)",
        "Who burns the budget? (bad outcomes per minute, with traces)",
        "Which version hurts? (bad outcomes per minute)",
    ]


def test_a_state_without_traffic_is_not_green():
    colours = {meaning.text: meaning.colour for meaning in judged.STATES.values()}
    assert colours["no traffic"] not in {colours["fine"], colours["burning"]}
    assert len({meaning.text for meaning in judged.STATES.values()}) == 5


def test_a_configuration_adds_its_titles_and_its_currency():
    known = dashboards.generate(snapshots.CONFIG)
    assert "A customer pays for the cart" in known["outcome-outcomes.json"]
    assert '"currencyUSD"' in known["outcome-outcomes.json"]
    assert '"currencyUSD"' not in FILES["outcome-outcomes.json"]
    two = snapshots.CONFIG.model_dump(mode="json", exclude_defaults=True)
    two["journeys"][0]["value"] = {"event": "data.x", "currency": "EUR"}
    two["journeys"][0]["outcome"] = {"event": "shop.found"}
    assert '"currency' not in dashboards.generate(Config.model_validate(two))[
        "outcome-outcomes.json"
    ].replace('"currency"', "")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: promql.select(series.SLO_SLI, jorney="x"), "no label"),
        (lambda: promql.rate(series.ATTEMPTS, "nothing"), "nothing"),
        (lambda: promql.gauge(series.ATTEMPTS), "outcome_attempts_total"),
        (lambda: promql.select(series.SPAN_DURATION), "traces_span_metrics_duration_seconds"),
    ],
)
def test_a_series_or_label_that_does_not_exist_is_noticed_when_generating(make, problem):
    with pytest.raises(AssertionError, match=problem):
        make()


def test_the_link_between_dashboards_is_one_that_grafana_understands():
    assert panels.url(uids.JOURNEY, journey="${__value.raw}") == (
        "/d/outcome-journey?${datasource:queryparam}&${job:queryparam}"
        "&var-journey=${__value.raw}&${__url_time_range}"
    )


def test_the_server_shows_what_its_process_costs():
    found = process_snapshot()
    (cpu,), (memory,) = found[series.PROCESS_CPU], found[series.PROCESS_MEMORY]
    assert 0 < cpu.value < 86_400
    assert 1 << 20 < memory.value < 1 << 40


def test_the_data_source_leads_from_our_exemplars_to_traces():
    text = (ROOT / "examples" / "grafana" / "datasource.yaml").read_text(encoding="utf-8")
    (source,) = yaml.safe_load(text)["datasources"]
    assert source["type"] == "prometheus"
    (destination,) = source["jsonData"]["exemplarTraceIdDestinations"]
    burning = exposition.render(snapshots.burning().snapshot, openmetrics=True).decode()
    assert f'# {{{destination["name"]}="' in burning
