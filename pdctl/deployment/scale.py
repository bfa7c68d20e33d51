"""Other numbers of engines for a running deployment: pure."""

from dataclasses import dataclass, replace

from pdctl.deployment.choose import checked
from pdctl.deployment.records import Deployment, RolePlan
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Role


@dataclass(frozen=True)
class Counts:
    """What a command asks for. None: not said."""

    prefill: int | None = None
    decode: int | None = None
    total: int | None = None


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
