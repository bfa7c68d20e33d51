"""The deployment a user asked for on the command line, checked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pdctl.deployment.checks import check_args
from pdctl.deployment.flags import POLICIES
from pdctl.deployment.records import Deployment, EngineKind, RolePlan, RouterPlan
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Parallelism, Role
from pdctl.verdict.records import Arm
from pdctl.verdict.rules import quarter
from pdctl.workload.records import Slo

MAX_ENGINES = 100  # as many as a band of ports holds
ONE_GPU = Parallelism()
USUAL_ROUTER = RouterPlan()
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
    """The deployment of `total` engines, `prefill` of them for prefill.

    Args:
        total: engines in all; an engine takes tp x pp GPUs.
        prefill: 0 for colocated engines; None for a quarter of the total, at least one.
        name: of the deployment; None: made from the model's.
        parallelism: of every engine, unless its role has its own.
        args: SGLang flags for every engine, before those of its role.

    Raises:
        InvalidInput: counts that cannot serve, or flags that conflict with pdctl's.
    """
    num_prefill = check_counts(prefill, total)
    plan = partial(_plan, parallelism, args, env or {})
    plans: dict[Role, RolePlan] = {"colocated": plan(total, None, ())}
    if num_prefill:
        plans = {
            "prefill": plan(num_prefill, prefill_parallelism, prefill_args),
            "decode": plan(total - num_prefill, decode_parallelism, decode_args),
        }
    return checked(
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


def checked(deployment: Deployment) -> Deployment:
    """`deployment` itself.

    Raises InvalidInput where a name, size, port, policy or extra flag of it cannot be run.
    """
    check_name(deployment.name)
    if not deployment.model.strip():
        raise InvalidInput(
            "The deployment has no model.", hint="pdctl up MODEL, or model: in pd.yaml"
        )
    if deployment.total > MAX_ENGINES:
        raise InvalidInput(
            f"{deployment.total} engines are more than the {MAX_ENGINES} of one deployment.",
            hint=f"--total {MAX_ENGINES}",
        )
    for role, plan in deployment.roles.items():
        check_sizes(plan.parallelism, role)
    if not 1 <= deployment.router.port <= 65535:
        raise InvalidInput(f"{deployment.router.port} is not a port.", hint="--port 30000")
    if deployment.router.policy not in (None, *POLICIES):
        raise InvalidInput(
            f"The router has no policy {deployment.router.policy!r}.",
            hint=f"one of {', '.join(POLICIES)}",
        )
    check_args(deployment)
    return deployment


def check_counts(prefill: int | None, total: int) -> int:
    """The number of prefill engines: `prefill`, or a quarter of `total` where it is None.

    Raises InvalidInput unless either all engines are colocated or each role has one.
    """
    if total < 1:
        raise InvalidInput(f"--total must be at least 1, not {total}.", hint="--total 8")
    if prefill == 0:
        return 0
    if total == 1:
        raise InvalidInput(
            "--total 1 leaves no engine for decode: a split needs one of each.",
            hint="--prefill 1 --total 2, or --prefill 0 --total 1 for one colocated engine",
        )
    a_quarter = quarter(total).prefill or 1
    if prefill is None:
        return a_quarter
    if prefill < 0:
        raise InvalidInput(
            f"--prefill must not be negative, not {prefill}.",
            hint=f"--prefill {a_quarter}, or --prefill 0 for colocated engines",
        )
    if prefill >= total:
        raise InvalidInput(
            f"--prefill {prefill} of --total {total} leaves no engine for decode.",
            hint=f"--prefill {a_quarter} --total {total}, or --prefill 0 for colocated engines",
        )
    return prefill


def check_sizes(parallelism: Parallelism, role: Role) -> None:
    """Nothing, if SGLang can split an engine this way; InvalidInput otherwise."""
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
                hint=f"attention dp and ep lie inside tp: --tp {value} --{size} {value}",
            )


def name_of(model: str) -> str:
    """A deployment's name made from its model's: Qwen/Qwen3-32B as qwen3-32b."""
    last = model.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9._-]+|\.{2,}", "-", last).strip("._-")[:64].rstrip("._-") or "default"


def check_name(name: str) -> None:
    """Nothing, if `name` can name a directory and nothing outside it; InvalidInput otherwise."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidInput(
            f"{name!r} is not a name for a deployment.",
            hint="--name with letters, digits, '.', '_' and '-', beginning with a letter or digit",
            code="bad_name",
        )


def deployment_of_arm(
    model: str, arm: Arm, slo: Slo, *, attention_backend: str | None = None
) -> Deployment:
    """What to launch for an arm, with what was predicted of it.

    attention_backend: the one planned for; None: whichever SGLang takes.

    Raises InvalidInput where the arm cannot be launched, as `deployment_of`.
    """
    prefill, decode = arm.num_engines
    together = arm.parallelism.get("colocated")
    deployment = deployment_of(
        model=model,
        total=prefill + decode,
        prefill=0 if together else prefill,
        parallelism=together or Parallelism(),
        prefill_parallelism=arm.parallelism.get("prefill"),
        decode_parallelism=arm.parallelism.get("decode"),
        args=backend_args(attention_backend),
    )
    return replace(
        deployment, ttft_slo_s=slo.ttft_s, tpot_slo_s=slo.tpot_s, predicted=_predicted(arm)
    )


def backend_args(attention_backend: str | None) -> tuple[str, ...]:
    """SGLang's flags for an attention backend; none for None."""
    return ("--attention-backend", attention_backend) if attention_backend else ()


def _predicted(arm: Arm) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, times in (("ttft", arm.ttft_s), ("tpot", arm.tpot_s)):
        if times is not None:
            found |= {f"{name}_{q}_s": getattr(times, q) for q in ("p50", "p90", "p99")}
    if arm.knee_rps is not None:
        found["goodput_rps"] = arm.knee_rps
    return found


@dataclass(frozen=True)
class Counts:
    """What a command asks for. None: not said."""

    prefill: int | None = None
    decode: int | None = None
    total: int | None = None


def counts_of(layout: str) -> Counts:
    """The numbers of engines in a layout: 2P6D, or 8C."""
    numbers = {letter: int(number) for number, letter in re.findall(r"(\d+)([PDC])", layout)}
    return Counts(prefill=numbers.get("P"), decode=numbers.get("D"), total=numbers.get("C"))


def scaled(deployment: Deployment, counts: Counts) -> Deployment:
    """The deployment with other numbers of engines.

    One role alone moves engines between the roles: the total stays. The total alone keeps the
    ratio of the roles as well as whole engines can.

    Raises InvalidInput where the result could not serve, or the numbers contradict each other.
    """
    if "colocated" in deployment.roles:
        return _scaled_colocated(deployment, counts)
    num_prefill, num_decode = _split(deployment, counts)
    roles: dict[Role, RolePlan] = {
        "prefill": replace(deployment.roles["prefill"], engines=num_prefill),
        "decode": replace(deployment.roles["decode"], engines=num_decode),
    }
    return checked(replace(deployment, roles=roles, predicted=_kept(deployment, roles)))


def role_changes(before: Deployment, after: Deployment) -> dict[str, str]:
    """New engine -> the engine of the other role whose place and GPUs it takes.

    Only among engines of one size; the last of the shrinking role become the first of the new.
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
    """A prediction is one of a layout."""
    return dict(deployment.predicted) if roles == deployment.roles else {}


def _scaled_colocated(deployment: Deployment, counts: Counts) -> Deployment:
    if counts.prefill is not None or counts.decode is not None:
        raise InvalidInput(
            f"{deployment.name} is colocated: it has neither prefill nor decode engines.",
            hint=f"pdctl scale --total N, or pdctl down, then pdctl up {deployment.model} "
            "--prefill 2 --total 8",
            code="cannot_serve",
        )
    num = _given(counts)["total"]
    if num < 1:
        raise _cannot_serve(f"--total {num} leaves no engine", "pdctl down stops a deployment")
    roles: dict[Role, RolePlan] = {"colocated": replace(deployment.roles["colocated"], engines=num)}
    return checked(replace(deployment, roles=roles, predicted=_kept(deployment, roles)))


def _given(counts: Counts) -> dict[str, int]:
    given = {k: v for k in ("prefill", "decode", "total") if (v := getattr(counts, k)) is not None}
    if not given:
        raise InvalidInput(
            "No number of engines is given.",
            hint="--prefill 3 moves engines between the roles, --total 10 adds some",
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
            f"{asked}: {num_prefill} and {num_decode} are not {total}.",
            hint=f"--prefill {num_prefill} --decode {num_decode}",
        )
    for role, num in (("prefill", num_prefill), ("decode", num_decode)):
        if num < 1:
            keeps = "" if "total" in given else f" of {total} engines"
            raise _cannot_serve(
                f"{asked}{keeps} leaves no {role} engine",
                "--prefill 1 --decode 1 is the least; pdctl down stops a deployment",
            )


def _cannot_serve(what: str, hint: str) -> InvalidInput:
    return InvalidInput(f"{what}: nothing could be served.", hint=hint, code="cannot_serve")
