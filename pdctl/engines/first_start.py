"""When a deployment that has not been ready yet is given up: pure."""

from pdctl.engines.actions import Desired, Fail, Limits, Observed, Process


def first_start_failure(
    desired: Desired, observed: Observed, now: float, limits: Limits
) -> Fail | None:
    """Why everything is to be stopped: the earliest crash, a stranger's answer, or too late."""
    wanted = [observed.processes[s.name] for s in desired.specs if s.name in observed.processes]
    crashed = sorted((p for p in wanted if p.crashes), key=lambda p: p.crashes[0])
    if crashed:
        return Fail(crashed[0].name, "engine_failed", _how_it_ended(crashed[0]))
    for process in wanted:
        if process.wrong_since is not None and now - process.wrong_since >= limits.wrong_s:
            return Fail(process.name, "engine_failed", process.detail)
    request = observed.first_request
    if request.state == "failed" and request.tries >= limits.first_request_tries:
        return Fail("", "engine_failed", f"the first request failed: {request.detail}")
    if now - observed.started_at >= limits.ready_timeout_s:
        return _too_slow(wanted, limits)
    return None


def _how_it_ended(process: Process) -> str:
    if process.exit_code is None:
        return "could not be started"
    if process.exit_code < 0:
        return f"was ended by signal {-process.exit_code}"
    return f"exited with status {process.exit_code}"


def _too_slow(wanted: list[Process], limits: Limits) -> Fail:
    late = [p for p in wanted if not p.is_serving]
    name = late[0].name if late else ""
    doing = f" ({late[0].detail})" if late and late[0].detail else ""
    text = f"{len(late)} not serving after {limits.ready_timeout_s:.0f} s, {name} among them{doing}"
    return Fail(name, "not_ready", text if late else "the first request did not pass in time")
