"""Bad configurations, each with what `outcome-exporter check` says about it, to the letter.

`tests/bad_configs/NAME.yaml` is the file, `NAME.txt` what stands on stderr. Files that only warn
are called `warn-…`; they work.
"""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcome_exporter import check, cli, config, document
from outcome_exporter.errors import ConfigError, Problem

FOLDER = Path(__file__).parents[1] / "bad_configs"
CASES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def run_check(monkeypatch, file):
    monkeypatch.setattr(sys, "argv", ["outcome-exporter", "check", "-c", file])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return exit_info.value.code


@pytest.mark.parametrize("case", CASES)
def test_bad_configuration(case, monkeypatch, capsys):
    monkeypatch.chdir(FOLDER)
    code = run_check(monkeypatch, f"{case}.yaml")
    output = capsys.readouterr()
    assert output.err == (FOLDER / f"{case}.txt").read_text()
    assert code == (0 if case.startswith("warn-") else 2)
    assert bool(output.out) == (code == 0)


def test_every_expectation_has_its_configuration():
    assert sorted(path.stem for path in FOLDER.glob("*.txt")) == CASES
    assert len(CASES) >= 60


def test_problems_speak_plainly():
    said = "".join((FOLDER / f"{case}.txt").read_text() for case in CASES)
    for word in (
        "Input",
        "should be",
        "valid instance",
        "pydantic",
        "value_error",
        "literal",
        "dict",
        "None",
    ):
        assert word not in said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "attempt", "span", "event", "good", "objective", "window", "slos", "join"]
            )
            | st.text(max_size=3),
            children,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(data=st.dictionaries(st.sampled_from([*config.Config.model_fields, "x"]), JSON, min_size=1))
def test_whatever_the_file_says_the_answer_is_a_configuration_or_problems(data):
    try:
        found = config.validate(document.Document(data), file="config.yaml")
    except ConfigError as error:
        problems = error.problems
    else:
        problems = [Problem("x", "the form is right", ""), *check.check(found)]
    assert problems
    assert all(problem.path and problem.problem for problem in problems)


@given(
    content=st.binary(max_size=200)
    | st.text("aé:-[]{}&*!|>'\"#%@`? \t\n0", max_size=60).map(str.encode)
)
def test_whatever_the_bytes_are_reading_ends_in_data_or_problems(content):
    try:
        found = document.parse(content, file="config.yaml")
    except ConfigError as error:
        said = str(error)
    else:
        said = f"config.yaml:{found.line('')}"
    assert said.startswith("config.yaml:")
