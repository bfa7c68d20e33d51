"""Build a `Deployment`: from options, from a plan's arm, or from another with other counts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from pdctl.deployment.checks import check_args
from pdctl.deployment.flags import POLICIES
from pdctl.deployment.records import Counts as Counts
from pdctl.deployment.records import Deployment, EngineKind, RolePlan, RouterPlan
from pdctl.errors import InvalidInput
from pdctl.hosts import is_endpoint
from pdctl.perf_model.records import Parallelism, Role
from pdctl.verdict.records import Arm
from pdctl.verdict.rules import quarter
from pdctl.workload.records import Slo

MAX_ENGINES = 400  # the bands of ports hold 500
ONE_GPU = Parallelism()
USUAL_ROUTER = RouterPlan()
NO_ARGS: Mapping[Role, tuple[str, ...]] = {}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def deployment_of(
    *,
    model: str,
    total: int,
    prefill: int | None = None,
    name: str | None = None,
    engine: EngineKind = "sglang",
    parallelism: Parallelism = ONE_GPU,
    prefill_parallelism: Parallelism | None = None,
    decode_parallelism: Parallelism | None = None,
    args: Sequence[str] = (),
    prefill_args: Sequence[str] = (),
    decode_args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    router: RouterPlan = USUAL_ROUTER,
    gpus: str | None = None,
    transfer_backend: str = "auto",
    python: str | None = None,
    trust_remote_code: bool = False,
    sim_speed: float = 1.0,
) -> Deployment:
    """A deployment of `total` engines, `prefill` of which are prefill engines.

    Args:
        total: all engines; each needs tp x pp GPUs.
        prefill: 0 for colocated engines; None for a quarter of the total, at least one.
        name: the deployment's name; None: derived from the model's.
        parallelism: of every engine whose role has none of its own.
        args: SGLang flags for every engine, before those of its role.

    Raises:
        InvalidInput: these counts cannot serve, or a flag conflicts with pdctl's own.
    """
    num_prefill = check_counts(prefill, total)
    plan = partial(_plan, parallelism, args, env or {})
    plans: dict[Role, RolePlan] = {"colocated": plan(total, None, ())}
    if num_prefill:
        plans = {
            "prefill": plan(num_prefill, prefill_parallelism, prefill_args),
            "decode": plan(total - num_prefill, decode_parallelism, decode_args),
        }
    return validated(
        Deployment(
            name=name if name is not None else name_of(model),
            model=model,
            roles=plans,
            engine=engine,
            router=router,
            gpus=gpus,
            transfer_backend=transfer_backend,
            python=python,
            trust_remote_code=trust_remote_code,
            sim_speed=sim_speed,
        )
    )


def _plan(
    parallelism: Parallelism,
    args: Sequence[str],
    env: Mapping[str, str],
    engines: int,
    own_parallelism: Parallelism | None,
    own_args: Sequence[str],
) -> RolePlan:
    return RolePlan(engines, own_parallelism or parallelism, (*args, *own_args), dict(env))


def validated(deployment: Deployment) -> Deployment:
    """Return `deployment` unchanged.

    Raises InvalidInput if its name, sizes, port, policy or extra flags are not valid.
    """
    check_name(deployment.name)
    if not deployment.model.strip():
        raise InvalidInput(
            "The deployment has no model.", hint="pdctl up MODEL, or model: in pd.yaml"
        )
    if deployment.total > MAX_ENGINES:
        raise InvalidInput(
            f"{deployment.total} engines exceed the limit of {MAX_ENGINES} per deployment.",
            hint=f"--total {MAX_ENGINES}",
        )
    for role, plan in deployment.roles.items():
        check_sizes(plan.parallelism, role)
    checked_router(deployment.router)
    _check_endpoint(deployment.observe.metrics, "--metrics-endpoint 127.0.0.1:9464")
    _check_endpoint(deployment.observe.traces, "--otlp 127.0.0.1:4317")
    check_args(deployment)
    return deployment


def checked_router(router: RouterPlan) -> RouterPlan:
    """Return `router` unchanged. Raises InvalidInput for a port or a policy that does not exist."""
    if not 1 <= router.port <= 65535:
        raise InvalidInput(f"{router.port} is not a valid port.", hint="--port 30000")
    if router.policy not in (None, *POLICIES):
        raise InvalidInput(
            f"The router has no policy {router.policy!r}.",
            hint=f"--policy {', '.join(POLICIES[:-1])} or {POLICIES[-1]}",
        )
    return router


def _check_endpoint(text: str, hint: str) -> None:
    if text and not is_endpoint(text):
        raise InvalidInput(f"{text!r} is not HOST:PORT.", hint=hint)


def check_counts(prefill: int | None, total: int) -> int:
    """The number of prefill engines: `prefill`, or a quarter of `total` if it is None.

    Raises InvalidInput unless all engines are colocated or each role has at least one.
    """
    if total < 1:
        raise InvalidInput(f"--total must be at least 1, not {total}.", hint="--total 8")
    if prefill == 0:
        return 0
    if total == 1:
        raise InvalidInput(
            "--total 1 is too few for a split, which needs one prefill and one decode engine.",
            hint="--prefill 1 --total 2, or --prefill 0 --total 1 for one colocated engine",
        )
    a_quarter = quarter(total).prefill or 1
    if prefill is None:
        return a_quarter
    if prefill < 0:
        raise InvalidInput(
            f"--prefill must be at least 0, not {prefill}.",
            hint=f"--prefill {a_quarter}, or --prefill 0 for colocated engines",
        )
    if prefill >= total:
        raise InvalidInput(
            f"--prefill {prefill} of --total {total} leaves no engine for decode.",
            hint=f"--prefill {a_quarter} --total {total}, or --prefill 0 for colocated engines",
        )
    return prefill


def check_sizes(parallelism: Parallelism, role: Role) -> None:
    """Raise InvalidInput unless SGLang accepts these sizes."""
    sizes = {f: getattr(parallelism, f) for f in ("tp", "pp", "dp", "ep")}
    for size, value in sizes.items():
        if value < 1:
            raise InvalidInput(
                f"{size} of {role} engines must be at least 1, not {value}.", hint=f"--{size} 1"
            )
    for size in ("dp", "ep"):
        value = sizes[size]
        if parallelism.tp % value:
            raise InvalidInput(
                f"{size} {value} of {role} engines does not divide tp {parallelism.tp}.",
                hint=f"attention dp and ep divide tp, as in --tp {value} --{size} {value}",
            )


def name_of(model: str) -> str:
    """A deployment name derived from a model: Qwen/Qwen3-32B gives qwen3-32b."""
    last = model.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9._-]+|\.{2,}", "-", last).strip("._-")[:64].rstrip("._-") or "default"


def check_name(name: str) -> None:
    """Raise InvalidInput unless `name` is safe as the name of a directory."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidInput(
            f"{name!r} is not a valid deployment name.",
            hint="--name with letters, digits, '.', '_' and '-', beginning with a letter or digit",
            code="bad_name",
        )


def deployment_of_arm(
    model: str,
    arm: Arm,
    slo: Slo,
    *,
    args: Mapping[Role, tuple[str, ...]] = NO_ARGS,
    policy: str | None = None,
) -> Deployment:
    """The deployment that runs an arm of a plan, together with its prediction.

    args: SGLang's flags by role. policy: the router's; None: its default.

    Raises InvalidInput, as `deployment_of`.
    """
    together = arm.parallelism.get("colocated")
    deployment = deployment_of(
        model=model,
        total=arm.num_engines,
        prefill=arm.counts.get("prefill", 0),
        parallelism=together or Parallelism(),
        prefill_parallelism=arm.parallelism.get("prefill"),
        decode_parallelism=arm.parallelism.get("decode"),
        args=args.get("colocated", ()) if together else (),
        prefill_args=args.get("prefill", ()),
        decode_args=args.get("decode", ()),
        router=RouterPlan(policy=policy),
    )
    return replace(
        deployment,
        ttft_slo_s=slo.ttft_s,
        tpot_slo_s=slo.tpot_s,
        attainment_slo=slo.attainment,
        predicted=_predicted(arm),
    )


def _predicted(arm: Arm) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, times in (("ttft", arm.ttft_s), ("tpot", arm.tpot_s)):
        if times is not None:
            found |= {f"{name}_{q}_s": getattr(times, q) for q in ("p50", "p90", "p99")}
    for name in ("capacity_rps", "goodput_rps"):
        if getattr(arm, name) is not None:
            found[name] = getattr(arm, name)
    return found


def counts_of(layout: str) -> Counts:
    """The numbers of engines in a layout: 2P6D, or 8C."""
    numbers = {letter: int(number) for number, letter in re.findall(r"(\d+)([PDC])", layout)}
    return Counts(prefill=numbers.get("P"), decode=numbers.get("D"), total=numbers.get("C"))


def scaled(deployment: Deployment, counts: Counts) -> Deployment:
    """The deployment with other engine counts.

    One role alone keeps the total and moves engines between the roles. The total alone keeps the
    ratio of the roles, rounded to whole engines.

    Raises InvalidInput if the result could not serve or the counts contradict each other.
    """
    if "colocated" in deployment.roles:
        return _scaled_colocated(deployment, counts)
    num_prefill, num_decode = _split(deployment, counts)
    roles: dict[Role, RolePlan] = {
        "prefill": replace(deployment.roles["prefill"], engines=num_prefill),
        "decode": replace(deployment.roles["decode"], engines=num_decode),
    }
    return validated(replace(deployment, roles=roles, predicted=_kept(deployment, roles)))


def role_changes(before: Deployment, after: Deployment) -> dict[str, str]:
    """New engine -> the engine of the other role whose place and GPUs it takes.

    Only if all engines have the same size. The last engines of the shrinking role go first.
    """
    if "colocated" in before.roles or not _are_of_one_size(before):
        return {}
    gone = [name for name in before.engine_names if name not in after.engine_names]
    new = [name for name in after.engine_names if name not in before.engine_names]
    return dict(zip(new, reversed(gone), strict=False))


def _are_of_one_size(deployment: Deployment) -> bool:
    sizes = {plan.parallelism.num_gpus for plan in deployment.roles.values()}
    return len(sizes) == 1


def _kept(deployment: Deployment, roles: object) -> dict[str, float]:
    """The prediction, which holds only for the layout it was made for."""
    return dict(deployment.predicted) if roles == deployment.roles else {}


def _scaled_colocated(deployment: Deployment, counts: Counts) -> Deployment:
    if counts.prefill is not None or counts.decode is not None:
        raise InvalidInput(
            f"{deployment.name} is colocated and has no prefill or decode engines.",
            hint=f"pdctl scale --total N, or pdctl down, then pdctl up {deployment.model} "
            "--prefill 2 --total 8",
            code="cannot_serve",
        )
    num = _given(counts)["total"]
    if num < 1:
        raise _cannot_serve(f"--total {num} leaves no engine", "pdctl down stops a deployment")
    roles: dict[Role, RolePlan] = {"colocated": replace(deployment.roles["colocated"], engines=num)}
    return validated(replace(deployment, roles=roles, predicted=_kept(deployment, roles)))


def _given(counts: Counts) -> dict[str, int]:
    given = {k: v for k in ("prefill", "decode", "total") if (v := getattr(counts, k)) is not None}
    if not given:
        raise InvalidInput(
            "No engine count given.",
            hint="--prefill 3 moves engines between the roles; --total 10 changes their number",
        )
    return given


def _split(deployment: Deployment, counts: Counts) -> tuple[int, int]:
    """Prefill and decode engines. Raises InvalidInput unless there is one of each."""
    given = _given(counts)
    was_prefill, was_total = deployment.roles["prefill"].engines, deployment.total
    total = given.get("total", was_total)
    if "prefill" in given and "decode" in given:
        total = given.get("total", given["prefill"] + given["decode"])
        num_prefill, num_decode = given["prefill"], given["decode"]
    elif "prefill" in given:
        num_prefill, num_decode = given["prefill"], total - given["prefill"]
    elif "decode" in given:
        num_prefill, num_decode = total - given["decode"], given["decode"]
    else:
        num_prefill = min(max(round(total * was_prefill / was_total), 1), total - 1)
        num_decode = total - num_prefill
    _check(given, num_prefill, num_decode, total)
    return num_prefill, num_decode


def _check(given: dict[str, int], num_prefill: int, num_decode: int, total: int) -> None:
    asked = " ".join(f"--{key} {value}" for key, value in given.items())
    if num_prefill + num_decode != total:
        raise InvalidInput(
            f"--prefill {num_prefill} plus --decode {num_decode} is {num_prefill + num_decode}, "
            f"but --total is {total}.",
            hint=f"--prefill {num_prefill} --decode {num_decode}",
        )
    for role, num in (("prefill", num_prefill), ("decode", num_decode)):
        if num < 1:
            keeps = "" if "total" in given else f" of {total} engines"
            raise _cannot_serve(
                f"{asked}{keeps} leaves no {role} engine",
                "--prefill 1 --decode 1 is the minimum; --total adds engines on free GPUs",
            )


def _cannot_serve(what: str, hint: str) -> InvalidInput:
    return InvalidInput(f"{what}, so it could not serve.", hint=hint, code="cannot_serve")
