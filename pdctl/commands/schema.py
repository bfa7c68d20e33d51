"""`pdctl schema`: the JSON Schema of what a verb prints with --json."""

from typing import TYPE_CHECKING, Any

import typer

from pdctl.errors import InvalidInput

if TYPE_CHECKING:
    from pdctl.json_schema import Schema


def schema(
    verb: str = typer.Argument(..., help="A verb with --json: plan, up, status, …"),
    as_json: bool = typer.Option(
        False, "--json", help="Print the schema inside the JSON envelope of every verb."
    ),
) -> None:
    """Print the JSON Schema of what a verb prints with --json.

    \b
    Examples:
      pdctl schema plan
      pdctl schema status > status.schema.json
    """
    import json

    from pdctl.console import print_json

    found = envelope_schema(verb)
    if as_json:
        print_json("schema", found)
    else:
        typer.echo(json.dumps(found, indent=2))


def envelope_schema(verb: str) -> "Schema":
    """The schema of the whole object that `pdctl VERB --json` prints, also on failure.

    Raises InvalidInput if there is no such verb.
    """
    from pdctl.commands.command_line.json_data import DATA
    from pdctl.json_schema import DIALECT, schema_of

    if verb not in DATA:
        raise InvalidInput(
            f"There is no verb {verb!r} with --json.", hint=f"one of {', '.join(DATA)}"
        )
    data = schema_of(DATA[verb])
    definitions = data.pop("$defs", {})
    answered = _envelope(verb, {"enum": ["ok", "no"]}, data, {"type": "null"})
    failed = _envelope(verb, {"const": "error"}, {"type": "null"}, _error())
    return {
        "$schema": DIALECT,
        "title": f"pdctl {verb} --json",
        "anyOf": [answered, failed],
        "$defs": definitions,
    }


def _envelope(verb: str, status: "Schema", data: "Schema", error: "Schema") -> "Schema":
    properties: dict[str, Any] = {
        "pdctl_version": {"type": "string"},
        "command": {"const": verb},
        "status": status,
        "data": data,
        "error": error,
    }
    return _strict(properties)


def _error() -> "Schema":
    from pdctl.errors import CODES

    text = {"type": "string"}
    return _strict({"code": {"enum": sorted(CODES)}, "message": text, "hint": text})


def _strict(properties: dict[str, Any]) -> "Schema":
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
