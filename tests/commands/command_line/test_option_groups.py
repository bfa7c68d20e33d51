"""Options of long verbs stand in groups."""

import pytest
import typer

from pdctl.cli import app, verb_help
from pdctl.commands.command_line.option_groups import GROUPS, grouped
from pdctl.commands.command_line.verbs import VERBS

LONG = 20  # options; --help of a verb with more has headings


def _options(verb: str) -> list[str]:
    group = typer.main.get_command(app)
    context = group.make_context("pdctl", [], resilient_parsing=True)
    command = group.get_command(context, verb)  # type: ignore[attr-defined]
    return [one.name for one in command.params if one.param_type_name == "option"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_long_verb_has_groups_and_every_group_names_options_that_exist(verb: str) -> None:
    options = _options(verb)
    assert (len(options) > LONG) <= (verb in GROUPS)
    named = [name for names in GROUPS.get(verb, {}).values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) <= set(options)


def test_every_option_is_shown_once() -> None:
    for verb in GROUPS:
        text = verb_help(verb)
        assert all(f"{heading}:" in text for heading in GROUPS[verb])
        assert text.count("\n  --tp ") == 1


def test_options_that_no_group_names_come_last() -> None:
    class Option:
        def __init__(self, name: str) -> None:
            self.name = name

    found = grouped("up", [Option("new"), Option("tp"), Option("file")])
    assert list(found)[-1] == "Other options"
    assert [one.name for one in found["Other options"]] == ["new"]
    assert list(grouped("ls", [Option("json")])) == ["Options"]
