"""The deployment a user asked for on the command line, checked."""

import re
from collections.abc import Mapping, Sequence
from functools import partial

from pdctl.deployment.extra_args import check_args
from pdctl.deployment.flags_router import POLICIES
from pdctl.deployment.records import Deployment, EngineKind, RolePlan, RouterPlan
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Parallelism, Role
from pdctl.verdict.sizing import quarter

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
        check_parallelism(plan.parallelism, role)
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


def check_parallelism(parallelism: Parallelism, role: Role) -> None:
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
