"""The JSON Schema says what the loader does."""

import jsonschema
import pytest
import yaml

from outcome_exporter import config

SCHEMA = config.json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
JOURNEY = "journeys: [{name: a, attempt: {event: c}"


def subschemas(schema):
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from subschemas(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from subschemas(value)


def test_it_is_valid_against_its_meta_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_example_and_default_in_it_is_valid():
    checked = 0
    for schema in subschemas(SCHEMA):
        validator = VALIDATOR.evolve(schema=schema)
        for value in (*schema.get("examples", []), schema.get("default", ...)):
            if value is not ...:
                validator.validate(value)
                checked += 1
    assert checked > 50


def test_defaults_stand_as_one_writes_them():
    assert SCHEMA["$defs"]["Traces"]["properties"]["quiet"]["default"] == "10s"
    assert SCHEMA["$defs"]["Storage"]["properties"]["max_log"]["default"] == "4GiB"


@pytest.mark.parametrize(
    "text",
    [
        "jurneys: []",
        "traces: {quiet: 10}",
        "traces: {quiet: 10 s}",
        "metrics: {listen: 9464}",
        "storage: {max_log: 64MB}",
        "journeys: [{name: a b, attempt: {event: c}}]",
        f"{JOURNEY}, join: [trace-id]}}]",
        f"{JOURNEY}, labels: {{a-b: c}}}}]",
        f"{JOURNEY}, runbook: 'javascript:x'}}]",
        f"{JOURNEY}, slos: [{{name: b, objective: 100, good: {{error: false}}}}]}}]",
        f"{JOURNEY}, slos: [{{name: b, objective: 99, good: {{error: true}}}}]}}]",
    ],
)
def test_it_refuses_what_the_loader_refuses(text):
    assert not VALIDATOR.is_valid(yaml.safe_load(text))


def test_it_accepts_what_those_would_be_if_they_were_right():
    text = f"{JOURNEY}, slos: [{{name: b, objective: 99, good: {{error: false}}}}]}}]"
    VALIDATOR.validate(yaml.safe_load(text))
