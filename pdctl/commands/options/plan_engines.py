"""The engines that `plan` is asked about: their sizes, and SGLang's flags by role."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from pdctl.commands.options.engine_options import ROLES, EngineOptions, words
from pdctl.deployment.build import deployment_of
from pdctl.deployment.checks import unknown_flags, unknown_values
from pdctl.deployment.records import RouterPlan
from pdctl.deployment.serving import served_llm, serving_of
from pdctl.deployment.sglang_flags import engine_table, options
from pdctl.errors import InvalidInput, did_you_mean, nearest
from pdctl.inspection.records import Llm
from pdctl.perf_model.hardware import ATTENTION_BACKENDS
from pdctl.perf_model.memory import check_parallelism
from pdctl.perf_model.records import Parallelism, Role, Serving

_OF_THE_LLM = ("--quantization", "--context-length")
Args = Mapping[Role, tuple[str, ...]]


def fixed_parallelism(given: EngineOptions, llm: Llm) -> dict[Role, Parallelism]:
    """The shapes that the user fixed, by role; the search has those of the other roles.

    Raises InvalidInput for a size without a tp that it could divide, or that SGLang refuses.
    """
    sizes = {role: given.sizes(role) for role in ROLES}
    fixed = {role: Parallelism(**own) for role, own in sizes.items() if "tp" in own}
    for role in ROLES:
        if role not in fixed and (own := given.own_sizes(role)):
            raise _needs_tp(f"--{role}-{own[0]}", sizes[role][own[0]], f"--{role}-tp")
    if not fixed and sizes["colocated"]:
        size, value = next(iter(sizes["colocated"].items()))
        raise _needs_tp(f"--{size}", value, "--tp")
    for shape in fixed.values():
        check_parallelism(llm, shape)
    return fixed


def _needs_tp(flag: str, value: int, tp: str) -> InvalidInput:
    return InvalidInput(f"{flag} needs {tp}.", hint=f"{tp} {max(8, value)} {flag} {value}")


def args_text(args: str, settings: Mapping[str, object]) -> str | None:
    """--args with the settings that have flags of their own in `plan`; None without any."""
    given = [(flag, str(value)) for flag, value in settings.items() if value not in (None, "")]
    own = shlex.join(word for pair in given for word in pair)
    return " ".join(part for part in (args, own) if part) or None


@dataclass(frozen=True)
class AskedEngines:
    """SGLang's flags as parts of a question; the fields are those of `Site`."""

    llm: Llm
    args: Args
    serving: Mapping[Role, Serving]
    policy: str | None
    attention_backend: str | None


def asked_engines(llm: Llm, given: EngineOptions) -> AskedEngines:
    """The LLM and its engines with SGLang's flags and the router's policy, as `up` takes them.

    Raises InvalidInput for what `up` refuses, and for a value or a format that SGLang does not
    have.
    """
    common = words(given.args, "--args")
    args: Args = {
        "colocated": common,
        "prefill": (*common, *words(given.prefill_args, "--prefill-args")),
        "decode": (*common, *words(given.decode_args, "--decode-args")),
    }
    _check(llm, args, given.policy)
    serving = {role: serving_of(own) for role, own in args.items()}
    return AskedEngines(
        llm=_served(llm, args),
        args=args if any(args.values()) else {},
        serving=serving,
        policy=given.policy,
        attention_backend=serving["colocated"].attention_backend,
    )


def _check(llm: Llm, args: Args, policy: str | None) -> None:
    router = RouterPlan(policy=policy)
    deployment_of(
        model=llm.name, total=1, prefill=0, args=args["colocated"], router=router, name="plan"
    )
    split = deployment_of(
        model=llm.name,
        total=2,
        prefill=1,
        prefill_args=args["prefill"],
        decode_args=args["decode"],
        name="plan",
    )
    for flag in unknown_flags(split):
        near = nearest(flag, engine_table().spellings)
        raise InvalidInput(
            f"SGLang has no {flag}.{did_you_mean(near)}",
            hint=near or f"leave out {flag}: the plan cannot count it",
        )
    for flag, value in unknown_values(split):
        choices = engine_table().choices[flag]
        if flag == "--attention-backend":
            choices = tuple(sorted(ATTENTION_BACKENDS))
        raise InvalidInput(
            f"SGLang has no {flag} {value!r}. It has: {', '.join(choices)}.",
            hint=f"leave out {flag} for SGLang's default",
        )
    for given in args.values():
        backend = serving_of(given).attention_backend
        if backend is not None and backend not in ATTENTION_BACKENDS:
            raise InvalidInput(
                f"pdctl has no figures for the attention backend {backend!r}. It has them for: "
                f"{', '.join(sorted(ATTENTION_BACKENDS))}.",
                hint="--attention-backend triton, or leave the flag out for SGLang's default",
            )


def _served(llm: Llm, args: Args) -> Llm:
    """The LLM as every engine loads it."""
    asked = {tuple(map(options(given).get, _OF_THE_LLM)) for given in args.values()}
    if len(asked) > 1:
        raise InvalidInput(
            f"{' and '.join(_OF_THE_LLM)} must be the same for all engines that are compared.",
            hint="give them in --args",
        )
    return served_llm(llm, args["colocated"])
