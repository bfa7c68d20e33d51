"""Choose the deployment that a command means; say which run where there is no such one."""

from collections.abc import Sequence

from pdctl.errors import StateConflict

NONE_RUNS = "pdctl up starts one"


def no_such_deployment(name: str, running: Sequence[str]) -> StateConflict:
    """The error for a deployment that does not run; its hint lists those that do."""
    hint = f"running: {', '.join(running)}" if running else NONE_RUNS
    return StateConflict(f"No deployment {name!r} is running.", hint=hint, code="not_running")


def meant_name(
    name: str | None,
    running: Sequence[str],
    *,
    hint: str = "pass a name, such as {}",
    none_hint: str = NONE_RUNS,
) -> str:
    """`name`, or the name of the only running deployment.

    hint: what to do if several run; {} becomes one of their names. none_hint: if none does.
    Raises StateConflict.
    """
    if name is not None:
        return name
    if len(running) == 1:
        return running[0]
    if not running:
        raise StateConflict("No deployment is running.", hint=none_hint, code="not_running")
    raise StateConflict(
        f"{len(running)} deployments are running: {', '.join(running)}.",
        hint=hint.format(running[0]),
        code="ambiguous_name",
    )
