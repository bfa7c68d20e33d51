"""The command line that follows an advice. Pure; imports no rich, for JSON output."""

from pdctl.deployment.records import Counts
from pdctl.status.records import DeploymentStatus


def advice_command(status: DeploymentStatus) -> str:
    """The command that follows the advice; "" if there is none, or pdctl did not start it."""
    advice = status.advice
    if not status.is_ours:
        return ""
    if advice.change is not None:
        return f"pdctl scale {status.name} {_flags(advice.change)}"
    if advice.cause == "network_bound":
        return f"pdctl doctor {status.name}"
    if advice.cause == "sick_engine":
        return f"pdctl logs {advice.engine} --name {status.name}"
    if advice.cause in ("stuck_transfers", "misconfigured"):
        return f"pdctl logs --name {status.name}"
    return ""


def _flags(counts: Counts) -> str:
    given = (
        ("--prefill", counts.prefill),
        ("--decode", counts.decode),
        ("--total", counts.total),
    )
    return " ".join(f"{flag} {num}" for flag, num in given if num is not None)
