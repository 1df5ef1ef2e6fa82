"""What other tools' files become here, and what they lose on the way: nothing silently."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from outcome_exporter import check, cli, importers
from outcome_exporter.errors import ConfigError
from outcome_exporter.importers.queries import NoCount, bare, events_of, ratio_of, rest_of
from outcome_exporter.importers.reading import Node, name_of

FILES = Path(__file__).parent / "files"


def imported(kind, *names):
    done = importers.run(kind, importers.load([FILES / name for name in names]))
    data = yaml.safe_load(done.text)
    return data, {slo["name"]: slo for slo in data["slos"]}, [str(note) for note in done.notes]


def sli(slo):
    return slo["sli"]["prometheus"]


def test_sloth():
    _, slos, notes = imported("sloth", "sloth.yaml")
    assert list(slos) == [
        f"tickets-{name}" for name in ("sales", "swift", "turnstiles", "comfort", "gauged")
    ]
    assert slos["tickets-sales"] == {
        "name": "tickets-sales",
        "objective": 99.5,
        "window": "30d",
        "title": "Tickets can be bought.",
        "owner": "box-office",
        "runbook": "https://runbooks.example.com/sales",
        "sli": {
            "prometheus": {
                "bad": 'sales_total{outcome=~"(refused|crashed)"}',
                "total": "sales_total",
            }
        },
    }
    assert sli(slos["tickets-swift"]) == {
        "good": 'sale_seconds_bucket{kind!="bulk",le="0.5"}',
        "total": 'sale_seconds_count{kind!="bulk"}',
    }
    assert sli(slos["tickets-turnstiles"]) == {
        "bad": "sum_over_time((count(turnstile_open < 1))[1m:1m])",
        "total": "sum_over_time((count(turnstile_open))[1m:1m])",
    }
    assert sli(slos["tickets-comfort"]) == {
        "good": "sum(sum_over_time(comfort[1m]))",
        "total": "sum(count_over_time(comfort[1m]))",
    }
    ratio = 'avg(queue_refusals:ratio{site="main"})'
    assert sli(slos["tickets-gauged"]) == {
        "bad": f"sum(clamp_max(({ratio}) >= 0, 1))",
        "total": f"count(({ratio}) >= 0)",
    }
    for said in (
        "tickets-opaque: slos[4].sli.raw: the whole SLO is left out: 'job:errors:ratio_rate{{.win",
        "tickets-gauged: slos[5].sli.raw: each minute of each of its series is an event",
        "tickets-plugged: slos[6].sli.plugin: the whole SLO is left out: the plugin acme/",
        "slos[0].alerting.name: is not carried over",
        "labels.region: is not carried over",
        "slos[0].alerting.annotations.summary: is not carried over",
        "slos[0].alerting.page_alert: is not carried over",
        "slos[6].sli.plugin.options: is not carried over",
    ):
        assert any(said in note for note in notes), said


def test_sloths_custom_resource():
    _, slos, notes = imported("sloth", "sloth-crd.yaml")
    assert sli(slos["parking-barriers"]) == {
        "bad": 'barrier_moves_total{result="stuck"}',
        "total": "barrier_moves_total",
    }
    assert slos["parking-barriers"]["owner"] == "roads"
    assert any("metadata.namespace: is not carried over" in note for note in notes)
    assert any("spec.sloPlugins: is not carried over" in note for note in notes)
    assert any("alerting.pageAlert: is not carried over" in note for note in notes)


def test_pyrra():
    _, slos, notes = imported("pyrra", "pyrra.yaml")
    assert list(slos) == [f"library-{name}" for name in ("loans", "speed", "returns", "doors")]
    assert sli(slos["library-returns"]) == {
        "bad": 'returns_total{result="lost"}',
        "total": "returns_total",
    }
    loans = slos["library-loans"]
    assert (loans["window"], loans["objective"], loans["owner"]) == ("28d", 99.5, "shelves")
    assert sli(loans) == {"bad": 'loans_total{result="failed"}', "total": "loans_total"}
    assert sli(slos["library-speed"])["good"] == 'loan_seconds_bucket{le="2"}'
    assert sli(slos["library-doors"]) == {
        "good": 'sum(door_open{site="main"} > bool 0)',
        "total": 'count(door_open{site="main"})',
    }
    for said in (
        "library-loans: spec.indicator.ratio.grouping: is not carried over",
        "library-native: spec.indicator.latencyNative: the whole SLO is left out: native",
        "library-returns: spec.indicator.ratio (bad): offset 1m is left out: events are counted in",
        "library-any-bucket: spec.indicator.latency: the whole SLO is left out: loan_seconds_buck",
        "library-matchers: spec.indicator.ratio.errors: the whole SLO is left out: Pyrra knows no",
        "library-doors: spec.alerting: is not carried over",
        "library-loans: metadata.labels.prometheus: is not carried over",
    ):
        assert any(said in note for note in notes), said


def test_openslo():
    data, slos, notes = imported("openslo", "openslo.yaml")
    assert data["prometheus"] == {"url": "http://metrics.example.com"}
    assert list(slos) == ["ferry-bookings-1", "ferry-bookings-2", "queue", "crossings", "berths"]
    assert slos["crossings"]["calendar"] == {"period": "month", "time_zone": "Europe/Oslo"}
    assert slos["crossings"]["budgeting"] == {"method": "timeslices", "slice": "5m", "target": 95.0}
    assert slos["berths"]["budgeting"] == {"method": "ratio_timeslices", "slice": "1m"}
    assert slos["ferry-bookings-1"]["objective"] == 99.5
    assert slos["ferry-bookings-1"]["title"] == "Bookings: promise"
    assert slos["ferry-bookings-1"]["owner"] == "harbour, pier"
    assert slos["ferry-bookings-2"]["objective"] == 99
    assert sli(slos["ferry-bookings-2"]) == {
        "good": 'bookings_total{state="paid"}',
        "total": "bookings_total",
    }
    assert sli(slos["queue"]) == {
        "good": "sum((sum(cars_waiting)) <= bool 40)",
        "total": "count(sum(cars_waiting))",
    }
    for said in (
        "elsewhere: spec.indicator.spec.ratioMetric.good.metricSource: the whole SLO is left out",
        "it is read from Datadog",
        "crossings: spec.timeWindow[0].calendar.startTime: 2022-01-01 12:00:00 is left out",
        "fortnight: spec.timeWindow[0]: the whole SLO is left out: a calendar window of 2w",
        "ferry-bookings: spec.alertPolicies[0]: its conditions",
        "ferry-bookings: spec.alertPolicies[1]: is not carried over: there is no",
        "Service ferries: spec: is not carried over",
        "AlertPolicy loud: `generate rules` writes alerts",
    ):
        assert any(said in note for note in notes), said


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("sloth", ("sloth.yaml", "sloth-crd.yaml")),
        ("pyrra", ("pyrra.yaml",)),
        ("openslo", ("openslo.yaml",)),
    ],
)
def test_check_passes_on_what_the_command_writes(kind, names, tmp_path):
    output = tmp_path / "config.yaml"
    files = [str(FILES / name) for name in names]
    done = CliRunner().invoke(cli.app, ["import", kind, *files, "-o", str(output)])
    assert done.exit_code == 0, done.output
    assert check.load(output).config.standalone


def test_every_key_of_every_file_is_used_or_told():
    """A key that nobody knows is a note, wherever it stands."""
    for kind in importers.FORMATS:
        name = f"{kind}.yaml"
        documents = list(yaml.safe_load_all((FILES / name).read_text()))
        documents = [d for doc in documents for d in (doc if isinstance(doc, list) else [doc])]
        for document in documents:
            target = document.get("spec", document)
            if document.get("kind") in ("DataSource", "Service", "AlertPolicy", "SLI"):
                continue
            target["unheard_of"] = {"deep": 1}
        text = yaml.safe_dump_all(documents).encode()
        done = importers.run(kind, [importers.Source("x", text)])
        assert any("unheard_of: is not carried over" in str(note) for note in done.notes), kind


def test_nothing_is_said_where_everything_is_carried_over():
    text = """
        apiVersion: openslo/v1
        kind: SLO
        metadata: {name: ferries, displayName: Ferries, labels: {team: [harbour]}}
        spec:
          description: Boats leave.
          service: ferries
          indicator:
            metadata: {name: departures, displayName: Departures}
            spec:
              ratioMetric:
                counter: true
                bad: {metricSource: {type: Prometheus, spec: {query: "sum(departures{late='1'})"}}}
                total: {metricSource: {type: Prometheus, spec: {query: sum(departures)}}}
          timeWindow: [{duration: 1M, isRolling: false, calendar: {timeZone: Europe/Oslo}}]
          budgetingMethod: Occurrences
          objectives: [{displayName: Promise, op: gt, target: 0.995}]
    """
    done = importers.run("openslo", [importers.Source("x", text.encode())])
    assert (done.slos, [str(note) for note in done.notes]) == (1, [])


@pytest.mark.parametrize("policies", ["[null]", "[5]", "[lost]", "lost", "{}"])
def test_a_policy_that_is_none_keeps_no_slo_away(policies):
    text = (FILES / "openslo.yaml").read_text()
    text = text.replace("[loud, {alertPolicyRef: lost}]", policies)
    assert policies in text
    done = importers.run("openslo", [importers.Source("x", text.encode())])
    assert done.slos == len(imported("openslo", "openslo.yaml")[1])


def test_an_slo_that_cannot_work_here_is_left_out_with_its_reason():
    text = (FILES / "pyrra.yaml").read_text().replace("'99.5'", "'100'")
    done = importers.run("pyrra", [importers.Source("x", text.encode())])
    assert "library-loans" not in done.text
    assert any("100" in str(note) and "no error budget" in str(note) for note in done.notes)


def test_names_and_texts_that_do_not_fit_are_told():
    text = f"""
        apiVersion: pyrra.dev/v1alpha1
        kind: ServiceLevelObjective
        metadata: {{name: returns.of books}}
        spec:
          target: '99'
          window: 4w
          description: {"x" * 1001}
          indicator: {{ratio: {{errors: {{metric: lost_total}}, total: {{metric: all_total}}}}}}
    """
    done = importers.run("pyrra", [importers.Source("x", text.encode())])
    notes = [str(note) for note in done.notes]
    assert "returns-of-books: is called 'returns.of books' there" in notes[0]
    assert "returns-of-books: title: is cut" in notes[1]
    assert len(yaml.safe_load(done.text)["slos"][0]["title"]) == 1000


@pytest.mark.parametrize(("kind", "part"), [("success", "good"), ("failure", "bad")])
def test_a_ratio_that_says_no_number_of_events_counts_minutes(kind, part):
    text = f"""
        apiVersion: openslo/v1
        kind: SLO
        metadata: {{name: ferries}}
        spec:
          indicator:
            spec:
              ratioMetric:
                rawType: {kind}
                raw: {{metricSource: {{type: Prometheus, spec: {{query: punctual_ratio}}}}}}
          objectives: [{{target: 0.9}}]
    """
    done = importers.run("openslo", [importers.Source("x", text.encode())])
    found = sli(yaml.safe_load(done.text)["slos"][0])
    assert found == {
        part: "sum(clamp_max((punctual_ratio) >= 0, 1))",
        "total": "count((punctual_ratio) >= 0)",
    }
    assert "each minute of each of its series is an event" in str(done.notes[0])
    unknown = text.replace(f"rawType: {kind}", "rawType: maybe")
    done = importers.run("openslo", [importers.Source("x", unknown.encode())])
    assert done.slos == 0
    assert "it is neither success nor failure" in str(done.notes[0])


def test_files_of_something_else_are_told_apart():
    done = importers.run("sloth", importers.load([FILES / "pyrra.yaml"]))
    assert done.slos == 0
    assert "is no file of Sloth's" in str(done.notes[0])
    result = CliRunner().invoke(cli.app, ["import", "sloth", str(FILES / "pyrra.yaml")])
    assert result.exit_code == 1


def test_files_that_cannot_be_read_are_said():
    with pytest.raises(ConfigError, match="cannot be read"):
        importers.load([FILES / "none.yaml"])
    with pytest.raises(ConfigError, match="is no mapping"):
        importers.run("sloth", [importers.Source("x", b"text")])


@pytest.mark.parametrize(
    ("query", "counter", "found"),
    [
        ('sum(rate(a{b="c"}[5m]))', False, 'a{b="c"}'),
        ("rate(a[$window])", False, "a"),
        ("sum(a)", True, "a"),
        ("sum(rate(a[5m] offset 1m))", False, "a"),
        ('sum(rate(a{b=~"c$"}[5m]))', False, 'a{b=~"c$"}'),
        ('a{b="x offset 1m"} offset 5m', True, 'a{b="x offset 1m"}'),
        ('sum(rate(a{b=")"}[5m])) by (c) or vector(0)', False, 'a{b=")"}'),
        (
            "sum(rate(a[5m])) + sum(rate(b[5m]))",
            False,
            "60 * (sum(rate(a[2m])) + sum(rate(b[2m])))",
        ),
        ("sum(increase(a[1h])) * 2", False, "0.5 * (sum(increase(a[2m])) * 2)"),
        ("count_over_time(a[1h])", False, "count_over_time(a[1m])"),
    ],
)
def test_queries_become_selectors_where_they_can(query, counter, found):
    assert events_of(query, counter=counter).query == found


@pytest.mark.parametrize(
    "query", ["a", "avg(a)", "rate(a[5m]) / increase(b[5m])", "vector(1)", "rate(a{{.window}}[5m])"]
)
def test_what_gives_no_events_is_refused(query):
    with pytest.raises(NoCount):
        events_of(query)


def test_ratios_and_differences_are_taken_apart():
    assert ratio_of("(1 - (a / b))") == (True, "a", "b")
    assert ratio_of("a/b") == (False, "a", "b")
    assert rest_of("(t - g)", "t") == "g"
    assert rest_of("t - g", "u") is None
    assert ratio_of("a{x='/ on'} / job:on:sum") == (False, "a{x='/ on'}", "job:on:sum")
    words = ("a / b unless c", "a or b / c", "a and b / c", "a / b atan2 c")
    bound = ("a /on(x) b", "sum(a)/ ignoring (x) group_left sum(b)", 'a{x="/"} / ON (y) (b)')
    for query in ("a", "a / b / c", "2 - a / b", "a - b", *words, *bound):
        with pytest.raises(NoCount):
            ratio_of(query)


def test_small_things():
    assert bare("((a) )") == "a"
    assert bare("(a) + (b)") == "(a) + (b)"
    assert name_of("9 lives") == "slo-9-lives"
    assert len(name_of("x" * 90)) == 63
    assert list(Node({"a": {"b": 1}, "c": None}).left()) == ["a"]
