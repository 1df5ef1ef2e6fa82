"""Loading: what a good file becomes."""

import textwrap
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest
import yaml

from outcome_exporter import burn, check, config
from outcome_exporter.config import journeys, process, slos
from outcome_exporter.config.scalars import format_size
from outcome_exporter.errors import ConfigError
from outcome_exporter.units import DAY, HOUR, MILLISECOND, MINUTE, SECOND

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(textwrap.dedent(text))
    return config.load(path)


def test_the_checkout_example_is_read_as_it_stands():
    found = config.load(EXAMPLES / "checkout.yaml")
    [journey] = found.journeys
    success, fast = journey.slos
    assert found.receivers.otlp.grpc.listen == "0.0.0.0:4317"
    assert found.traces.max_age == 2 * MINUTE
    assert journey.attempt.span == journeys.SpanSelector(
        service="frontend", name="POST /api/checkout"
    )
    assert journey.join == (
        "trace_id",
        journeys.JoinKey(attribute="app.order.id", event="data.order_id"),
    )
    assert journey.outcome == journeys.Outcome(event="shop.order.completed", within=5 * MINUTE)
    assert journey.slow_above == 2 * SECOND
    assert journey.value == journeys.Value(
        event="data.total", attribute="app.cart.total", currency="USD"
    )
    assert journey.labels == {"tier": "app.user.tier"}
    assert success.objective == Decimal("99.5")
    assert success.good == journeys.Good(achieved=True, error=False)
    assert fast.good.duration_below == 800 * MILLISECOND
    assert [slo.name for _, slo in found.slos] == ["checkout-success", "checkout-fast"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_work_without_a_warning_and_fit_the_schema(path):
    assert check.load(path).warnings == ()
    jsonschema.validate(yaml.safe_load(path.read_text()), config.json_schema())


def test_defaults_are_as_documented(tmp_path):
    found = load(tmp_path, "journeys: []")
    assert found.metrics.listen == "0.0.0.0:9464"
    assert found.traces == process.Traces(quiet=10 * SECOND, max_age=2 * MINUTE, dedupe=HOUR)
    assert found.time == process.Time(future=10 * MINUTE, grace=MINUTE, lateness=10 * SECOND)
    assert found.exposition.birth == 30 * SECOND
    assert found.receivers.otlp.max_request == 64 << 20
    assert found.limits.label_values == 20


def test_what_is_written_out_is_read_back_the_same(tmp_path):
    found = config.load(EXAMPLES / "checkout.yaml")
    text = yaml.safe_dump(found.model_dump(mode="json", exclude_none=True, by_alias=True))
    assert load(tmp_path, text) == found


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("512KiB", 512 << 10), ("64 MiB", 64 << 20), ("1B", 1), ("1TiB", 1 << 40), ("4096", 4096)],
)
def test_sizes(tmp_path, text, size_bytes):
    found = load(tmp_path, f"storage: {{max_log: {text}}}")
    assert found.storage.max_log == size_bytes
    written = format_size(size_bytes)
    assert load(tmp_path, f"storage: {{max_log: {written}}}").storage.max_log == size_bytes


def test_zero_is_the_one_duration_without_a_unit(tmp_path):
    assert load(tmp_path, "storage: {keep_log: 0}").storage.keep_log == 0
    assert load(tmp_path, "storage: {keep_log: '0'}").storage.keep_log == 0
    with pytest.raises(ConfigError, match="7 has no unit"):
        load(tmp_path, "storage: {keep_log: 7}")


def test_nanoseconds_are_taken_from_python_and_not_from_a_file():
    assert process.Traces(quiet=7).quiet == 7


@pytest.mark.parametrize("text", ["no", "on", "0644", "1:30", "2024-01-01", "1_000", "0x1f"])
def test_texts_that_yaml_1_1_takes_for_something_else_stay_texts(tmp_path, text):
    found = load(tmp_path, f"journeys: [{{name: a, owner: {text}, attempt: {{event: b}}}}]")
    assert found.journeys[0].owner == text


def test_aliases_repeat_a_value(tmp_path):
    found = load(
        tmp_path,
        """
        journeys:
          - name: a
            attempt: &attempt {span: {service: frontend}}
          - name: b
            attempt: *attempt
        """,
    )
    assert found.journeys[0].attempt == found.journeys[1].attempt


def test_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes("\ufeffjourneys:\r\n  - name: a\r\n    attempt: {event: b}\r\n".encode())
    assert config.load(path).journeys[0].name == "a"


def test_a_file_that_is_not_there_is_a_problem_and_no_traceback(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        config.load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(tmp_path)


def test_a_file_without_end_is_refused_without_being_read_whole():
    with pytest.raises(ConfigError, match="is larger than 1 MiB"):
        config.load(Path("/dev/zero"))


def slo(objective, window=28 * DAY):
    return journeys.JourneySlo(
        name="a", objective=objective, window=window, good=journeys.Good(error=False)
    )


def test_objectives_have_no_binary_noise():
    assert slo(99.9).budget_ratio == 0.001
    assert slo("99.9").objective_ratio == 0.999
    assert slo(99.99).objective == Decimal("99.99")


@pytest.mark.parametrize(
    ("objective", "window", "kept"),
    [
        (95, 28 * DAY, [0, 1, 2, 3]),
        (90, 28 * DAY, [1, 2, 3]),  # 13.44 * 0.1 > 1
        (80, 28 * DAY, [2, 3]),
        (50, 28 * DAY, [3]),
        (99, 7 * DAY, [0, 1, 2, 3]),
        (99, 2 * DAY, [0, 1, 2]),  # three days are longer than two
        (99, 30 * MINUTE, []),
        # 100 % bad burns at exactly 10, which is not above 10.
        (90, 500 * HOUR, [1, 2, 3]),
    ],
)
def test_tiers_that_cannot_fire_are_left_out(objective, window, kept):
    assert slo(objective, window).tiers == tuple(burn.TIERS[index] for index in kept)


SLIS = {
    slos.MetricSli: ({"name": "http.server.request.duration"}, {"below": "300ms"}),
    slos.PrometheusSli: ({"total": "requests_total"}, 'requests_total{code="200"}'),
}


@pytest.mark.parametrize("verdict", ["good", "bad"])
@pytest.mark.parametrize(("kind", "of"), SLIS.items())
def test_an_sli_names_its_good_events_or_its_bad_ones(kind, of, verdict):
    total, part = of
    sli = kind.model_validate(total | {verdict: part})
    assert sli.verdict == verdict
    assert sli.part == getattr(sli, verdict) is not None
    for parts in ({}, {"good": part, "bad": part}):
        with pytest.raises(ValueError, match="needs good or bad, one of them"):
            kind.model_validate(total | parts)


def test_an_slis_text_stays_for_an_slo_is_known_by_it():
    texts = [
        kind.model_validate(total | {"bad": part}).model_dump_json(exclude_unset=True)
        for kind, (total, part) in SLIS.items()
    ]
    assert texts == [
        '{"name":"http.server.request.duration","bad":{"below":"300ms"}}',
        '{"bad":"requests_total{code=\\"200\\"}","total":"requests_total"}',
    ]


def test_windows_are_the_common_ones_and_its_own():
    assert slo(99).windows == (*burn.WINDOWS, 28 * DAY)
    assert slo(99, 6 * HOUR).windows == burn.WINDOWS
