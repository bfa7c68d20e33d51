"""Build a `Deployment` from options, a file, the last plan, or answers on a terminal."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from pdctl.commands.options.engine_options import EngineOptions, words
from pdctl.commands.progress import say
from pdctl.console import ask, interactive
from pdctl.deployment.build import checked_router, deployment_of, validated
from pdctl.deployment.pd_yaml import origin_of, read_deployment
from pdctl.deployment.records import (
    PLACE_POLICIES,
    Deployment,
    ObservePlan,
    PlacePolicy,
    RolePlan,
    RouterPlan,
)
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.gpus import query_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.model_files import absolute_model
from pdctl.paths import last_plan_path
from pdctl.perf_model.records import Parallelism, Role
from pdctl.units import positive
from pdctl.workload.describe import parse_slo
from pdctl.workload.records import Slo

FILE = Path("pd.yaml")


@dataclass(frozen=True)
class DeploymentOptions(EngineOptions):
    """Options that describe a deployment. None: not given."""

    model: str | None = None
    file: Path | None = None
    name: str | None = None
    prefill: int | None = None
    total: int | None = None
    engine: str | None = None
    gpus: str | None = None
    place: str | None = None
    router_args: str | None = None
    host: str | None = None
    port: int | None = None
    transfer_backend: str | None = None
    python: str | None = None
    trust_remote_code: bool = False
    no_request_times: bool = False
    sim_speed: float | None = None
    ttft: str | None = None
    tpot: str | None = None
    metrics_endpoint: str | None = None
    otlp: str | None = None
    no_what_if: bool = False
    no_input: bool = False


def build_deployment(options: DeploymentOptions, *, says_origin: bool = True) -> Deployment:
    """The deployment to start. Options override the file, or else ./pd.yaml or the last plan.

    says_origin: say on stderr which earlier plan it is, if it is one.
    Asks for the model and the number of engines if nothing gives them. Raises InvalidInput naming
    the flag if it cannot ask.
    """
    place = _place(options)
    base = read_deployment(place) if place else None
    if base and says_origin and place == last_plan_path():
        say(f"  Taking {origin_text(options)}: {base.model}, {base.layout}.")
    named = absolute_model(options.model or "")
    model = named or (base.model if base else "") or _ask_model(options)
    router = checked_router(_router(options, base))  # before any question is asked
    total = options.total if options.total is not None else base.total if base else None
    if total is None:
        total = _ask_total(options)
    engine = _engine(options, base)
    deployment = deployment_of(
        model=model,
        total=total,
        prefill=_prefill(options, base),
        name=options.name or (base.name if base else None),
        engine=engine,
        parallelism=_parallelism(options, base, "colocated"),
        prefill_parallelism=_parallelism(options, base, "prefill"),
        decode_parallelism=_parallelism(options, base, "decode"),
        args=words(options.args, "--args") if options.args else _role(base, "colocated").args,
        prefill_args=_role_args(options.prefill_args, "--prefill-args", base, "prefill"),
        decode_args=_role_args(options.decode_args, "--decode-args", base, "decode"),
        router=router,
        gpus=options.gpus or (base.gpus if base else None),
        transfer_backend=options.transfer_backend or (base.transfer_backend if base else "auto"),
        python=options.python or (base.python if base else None),
        trust_remote_code=options.trust_remote_code or (base.trust_remote_code if base else False),
        sim_speed=_sim_speed(options, base),
    )
    seen, policy = _observe(options, base), _place_policy(options, base)
    deployment = validated(replace(deployment, observe=seen, place=policy))
    deployment = _with_the_rest(deployment, base) if base else deployment
    deployment = _with_slo(deployment, parse_slo(options.ttft, options.tpot))
    refused = options.no_request_times or bool(base and not base.request_times)
    return replace(deployment, request_times=not refused)


def origin_text(options: DeploymentOptions) -> str:
    """The source of a deployment that options leave out: a file, or the last plan."""
    place = _place(options)
    if place is None:
        return ""
    return f"the plan of {origin_of(place)}" if place == last_plan_path() else str(place)


def _place(options: DeploymentOptions) -> Path | None:
    """The file that describes what the options leave out; None where they describe it all."""
    if options.file is not None or options.model:
        return options.file
    return next((path for path in (FILE, last_plan_path()) if path.is_file()), None)


def _ask_model(options: DeploymentOptions) -> str:
    if not interactive(no_input=options.no_input):
        raise InvalidInput(
            "No model is given, and there is neither ./pd.yaml nor an earlier plan.",
            hint="pdctl up MODEL --prefill 2 --total 8, or -f pd.yaml, or pdctl plan first",
            code="no_model",
        )
    return ask_model(default="qwen3-8b")


def ask_model(*, default: str) -> str:
    """Ask on a terminal for a model that pdctl can read."""

    def read(text: str) -> None:
        read_llm(absolute_model(text))

    return ask("Model?", default=default, flag="MODEL", no_input=False, check=read)


def _ask_total(options: DeploymentOptions) -> int:
    default = "8" if options.engine == "sim" else str(_num_gpus() // (options.tp or 1) or "")
    answer = ask(
        "How many engines in total?",
        default=default,
        flag="--total 8",
        no_input=options.no_input,
        check=_num_engines,
    )
    return _num_engines(answer)


def _num_engines(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise InvalidInput(f"{text!r} is not a number of engines.", hint="--total 8")
    return int(text)


def _num_gpus() -> int:
    try:
        return len(query_gpus())
    except EnvironmentProblem:
        return 0


def _engine(options: DeploymentOptions, base: Deployment | None) -> Literal["sglang", "sim"]:
    engine = options.engine or (base.engine if base else "sglang")
    if engine not in ("sglang", "sim"):
        raise InvalidInput(
            f"{engine!r} is not a kind of engine.", hint="--engine sglang or --engine sim"
        )
    return cast(Literal["sglang", "sim"], engine)


def _place_policy(options: DeploymentOptions, base: Deployment | None) -> PlacePolicy:
    policy = options.place or (base.place if base else "auto")
    if policy not in PLACE_POLICIES:
        raise InvalidInput(
            f"{policy!r} is not a way to place engines.", hint="--place spread, pack or domain"
        )
    return policy


def _sim_speed(options: DeploymentOptions, base: Deployment | None) -> float:
    if options.sim_speed is None:
        return base.sim_speed if base else 1.0
    if _engine(options, base) != "sim":
        raise InvalidInput(
            f"--sim-speed {options.sim_speed:g} needs simulated engines.", hint="--engine sim"
        )
    return positive(options.sim_speed, flag="--sim-speed")


def _prefill(options: DeploymentOptions, base: Deployment | None) -> int | None:
    """The flag, or the file's number if the total is the file's too. None: the default share."""
    if options.prefill is not None or base is None or options.total is not None:
        return options.prefill
    return _role(base, "prefill").engines


def _role(base: Deployment | None, role: Role) -> RolePlan:
    return (base.roles.get(role) if base else None) or RolePlan(0)


def _parallelism(options: DeploymentOptions, base: Deployment | None, role: Role) -> Parallelism:
    return replace(_role(base, role).parallelism, **options.sizes(role))


def _role_args(
    given: str | None, flag: str, base: Deployment | None, role: Role
) -> tuple[str, ...]:
    return words(given, flag) if given is not None else _role(base, role).args


def _router(options: DeploymentOptions, base: Deployment | None) -> RouterPlan:
    in_file = base.router if base else RouterPlan()
    router_args = options.router_args
    return RouterPlan(
        host=options.host or in_file.host,
        port=in_file.port if options.port is None else options.port,
        policy=options.policy or in_file.policy,
        args=in_file.args if router_args is None else words(router_args, "--router-args"),
    )


def _observe(options: DeploymentOptions, base: Deployment | None) -> ObservePlan:
    in_file = base.observe if base else ObservePlan()
    return ObservePlan(
        metrics=options.metrics_endpoint or in_file.metrics,
        traces=options.otlp or in_file.traces,
        what_if=in_file.what_if and not options.no_what_if,
    )


def _with_the_rest(deployment: Deployment, base: Deployment) -> Deployment:
    """Add what the file alone can give: environments, containers, the plan and its forecast."""
    roles = {
        role: replace(plan, env=own.env, image=own.image)
        for role, plan in deployment.roles.items()
        for own in [_role(base, role)]
    }
    is_same = (deployment.model, deployment.layout) == (base.model, base.layout)
    return replace(
        deployment,
        roles=roles,
        container=base.container,
        ttft_slo_s=base.ttft_slo_s,
        tpot_slo_s=base.tpot_slo_s,
        attainment_slo=base.attainment_slo,
        planned=base.planned if deployment.model == base.model else None,
        predicted=base.predicted if is_same else {},
    )


def _with_slo(deployment: Deployment, slo: Slo) -> Deployment:
    """The SLOs of --ttft and --tpot before those of the file, whose forecast of them goes."""
    if not slo.is_given:
        return deployment
    return replace(
        deployment,
        ttft_slo_s=slo.ttft_s or deployment.ttft_slo_s,
        tpot_slo_s=slo.tpot_s or deployment.tpot_slo_s,
        predicted={k: v for k, v in deployment.predicted.items() if not k.endswith("_rps")},
    )
