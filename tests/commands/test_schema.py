"""What verbs print with --json is what `pdctl schema` says; tests/e2e/test_json.py has the rest."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pdctl.cli import main
from pdctl.commands.command_line.json_data import DATA
from pdctl.commands.command_line.verbs import VERBS
from pdctl.commands.schema import envelope_schema


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The object that a command prints."""
    with pytest.raises(SystemExit):
        main(list(arguments))
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def check(verb: str, printed: object) -> None:
    """Raises ValidationError where an object is not what the schema of `verb` says."""
    validator(verb).validate(printed)


@cache
def validator(verb: str) -> jsonschema.Draft202012Validator:
    """The schema of `verb`, itself checked."""
    schema = envelope_schema(verb)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_every_verb_has_a_schema() -> None:
    assert set(DATA) == set(VERBS)
    for verb in VERBS:
        assert validator(verb)


@pytest.mark.parametrize("verb", VERBS)
def test_a_failure_of_every_verb_fits_its_schema(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = printed(capsys, verb, "--json", "--no-such-flag")
    assert failed["status"] == "error"
    check(verb, failed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "load",
    [
        ("--isl", "2000", "--osl", "200", "--rate", "2", "--ttft", "5s"),
        ("--isl", "2000", "--osl", "200", "--rate", "90000", "--ttft", "1ms"),
        ("--isl", "2000", "--osl", "200", "--concurrency", "8"),
        (),
    ],
    ids=["open", "unmet", "closed", "unknown"],
)
def test_a_plan_fits_its_schema(
    load: tuple[str, ...], capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    check("plan", printed(capsys, "plan", "qwen3-8b", "--gpus", "2xH100", "--json", *load))


def test_verbs_that_start_nothing_fit_their_schemas(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    sim = ("qwen3-8b", "--engine", "sim", "--prefill", "1", "--total", "2")
    check("up", printed(capsys, "up", *sim, "--dry-run", "--json"))
    check("up", printed(capsys, "up", *sim, "-o", "pd.yaml", "--json"))
    check("render", printed(capsys, "render", "shell", "--json"))
    check("ls", printed(capsys, "ls", "--json"))
    check("doctor", printed(capsys, "doctor", "--quick", "--json"))
    check("help", printed(capsys, "help", "--json"))
    check("help", printed(capsys, "help", "json", "--json"))
    check("help", printed(capsys, "help", "--man", "man", "--json"))
    check("schema", printed(capsys, "schema", "plan", "--json"))


def test_an_object_with_a_key_too_many_does_not_fit() -> None:
    envelope = {"pdctl_version": "1", "command": "down", "status": "ok", "error": None}
    check("down", {**envelope, "data": {"stopped": []}})
    with pytest.raises(jsonschema.ValidationError):
        check("down", {**envelope, "data": {"stopped": [], "more": 1}})
    with pytest.raises(jsonschema.ValidationError):
        check("down", {**envelope, "data": {"stopped": [{"name": "chat"}]}})


def test_an_unknown_verb_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["schema", "plna"])
    assert ended.value.code == 2
    assert "one of plan, up" in capsys.readouterr().err
