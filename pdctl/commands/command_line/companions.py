"""Options that mean nothing without another option, or beside it: refused, never ignored."""

from collections.abc import Mapping
from typing import Any

from pdctl.errors import InvalidInput

FILES = ("trace", "lengths")
LIVE = "from_url"
_ENGINES = ("tp", "pp", "dp", "ep", "args", "prefill_args", "decode_args", "transfer_backend")
# verb -> option -> the options of which one must be given too, the usual one first. Names are those
# of parameters. What --trace or --from contradicts has an error of its own.
NEEDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "plan": {
        "window": (LIVE,),
        "api_key_file": (LIVE,),
        "skip_bad": FILES,
        "time_unit": FILES,
        "isl_cv": ("isl", *FILES, LIVE),
        "osl_cv": ("osl", *FILES, LIVE),
        "prefix_hit": ("isl", *FILES, LIVE),
        "attainment": ("ttft", "tpot"),
        "force": ("output_file",),
    },
    "up": {"force": ("output",)},
    "status": {"window": ("what_if",)},
    "scale": {"window": ("dry_run",)},
    "rehearse": {"time_unit": ("trace",)},
    "measure": {
        "time_unit": ("trace",),
        "isl_cv": ("isl", "trace"),
        "osl_cv": ("osl", "trace"),
        "prefix_hit": ("isl", "trace"),
        "attainment": ("ttft", "tpot"),
    },
    "calibrate": {
        "window": (LIVE,),
        "decode_args": ("transfer",),
        "transfer_backend": ("transfer",),
        "sim_speed": ("engine",),
    },
}
# verb -> option -> options that it leaves without a meaning
EXCLUDES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "status": {"once": ("interval",), "check": ("interval",), "what_if": ("interval",)},
    "measure": {"target": ("total", "prefill", "engine", *_ENGINES, "python", "timeout")},
    "calibrate": {
        LIVE: ("budget", "transfer", "python"),
        "from_logs": ("budget", "transfer", "python"),
        "url": ("transfer", "python"),
    },
    "scale": {"dry_run": ("no_wait", "timeout", "drain"), "no_wait": ("timeout",)},
}
# verb -> option -> all that may stand beside it
ONLY_WITH: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "plan": {"models": ("as_json", "no_input")},
    "up": {"resume": ("name", "detach", "timeout", "api_key_file", "no_input", "as_json")},
    "autopilot": {"report": ("name", "as_json")},
}


def check_companions(verb: str, ctx: Any) -> None:
    """Raise InvalidInput for an option typed without, or beside, the one that decides about it."""
    named = {
        one.name: max(one.opts, key=len) if one.param_type_name == "option" else one.name.upper()
        for one in ctx.command.params
        if getattr(ctx.get_parameter_source(one.name), "name", "") == "COMMANDLINE"
    }
    flags = {one.name: max(one.opts, key=len) for one in ctx.command.params}
    for option, needed in NEEDS.get(verb, {}).items():
        if option in named and not named.keys() & set(needed):
            either = " or ".join(flags[one] for one in needed if one != LIVE or len(needed) == 1)
            raise InvalidInput(
                f"{named[option]} needs {either}.",
                hint=f"add {flags[needed[0]]}, or drop {named[option]}",
            )
    for option, idle in EXCLUDES.get(verb, {}).items():
        _refuse_beside(option, [one for one in idle if one in named], named)
    for option, allowed in ONLY_WITH.get(verb, {}).items():
        _refuse_beside(option, [one for one in named if one not in (option, *allowed)], named)


def _refuse_beside(option: str, idle: list[str], named: Mapping[str, str]) -> None:
    if option in named and idle:
        raise InvalidInput(
            f"{named[option]} and {named[idle[0]]} cannot be combined.",
            hint=f"drop {named[idle[0]]}",
        )
