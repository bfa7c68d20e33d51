"""Choose the deployment that a command means."""

from collections.abc import Sequence

from pdctl.errors import StateConflict


def meant_name(
    name: str | None,
    running: Sequence[str],
    *,
    hint: str = "pass a name, such as {}",
    none_hint: str = "pdctl up starts one",
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
