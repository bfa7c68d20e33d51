"""Sentences for command lines that cannot be read. Imported only when one is refused."""

import re
from typing import Any

from pdctl.errors import InvalidInput, did_you_mean, nearest

_KINDS = {"int": "a whole number", "float": "a number"}
_GIVEN = re.compile(r"(?P<text>'.*'|\S+) is not (?:a valid \S+(?: range)?|in the range \S+?)\.$")
_EXTRA = re.compile(r"Got unexpected extra arguments?\(?s?\)? \((?P<words>.*)\)$")


def usage_error(problem: Any, command: str) -> InvalidInput:
    """The error for a command line that click refuses; it names the option that was meant.

    command: "pdctl VERB".
    """
    hint = f"{command} --help"
    parameter: Any = getattr(problem, "param", None)
    message: str = problem.format_message()
    if hasattr(problem, "possibilities"):  # no such option
        near = nearest(problem.option_name, problem.possibilities or ())
        message = f"{command} has no option {problem.option_name}.{did_you_mean(near)}"
    elif message.startswith("Missing argument"):
        message = f"{command} needs {parameter.name.upper()}."
    elif message.endswith("requires an argument."):
        message = f"{command} {problem.option_name} needs a value."
    elif extra := _EXTRA.fullmatch(message):
        message = f"{command} does not take {extra['words']!r} as well."
    elif parameter is not None and (given := _GIVEN.search(problem.message)):
        flag = max(parameter.opts, key=len)
        message = f"{flag} takes {_accepted(parameter.type)}, not {given['text'].strip(chr(39))}."
    return InvalidInput(message, hint=hint, code="usage")


def _accepted(kind: Any) -> str:
    """A whole number from 1 to 65535."""
    name = _KINDS.get(kind.name.split()[0], kind.name)
    least, most = getattr(kind, "min", None), getattr(kind, "max", None)
    if least is not None and most is not None:
        return f"{name} from {least:g} to {most:g}"
    if least is not None:
        return f"{name} of at least {least:g}"
    return name if most is None else f"{name} of at most {most:g}"
