"""`pdctl down`: stop deployments and all their processes."""

from typing import TYPE_CHECKING, NamedTuple

import typer

from pdctl.commands.progress import say
from pdctl.console import show
from pdctl.errors import InvalidInput, PdctlError

if TYPE_CHECKING:
    from pdctl.engines.records import DeploymentState


def down(
    names: list[str] | None = typer.Argument(None, help="Deployments. Default: the only one."),
    every: bool = typer.Option(False, "--all", help="Stop every deployment on this machine."),
    now: bool = typer.Option(False, "--now", help="Kill at once; drop requests in flight."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Stop deployments: first the router, then the engines once their requests are done.

    Works even if a deployment's supervisor is dead. If one of several cannot be stopped, the
    others still are.

    \b
    Examples:
      pdctl down
      pdctl down chat batch --now
      pdctl down --all
    """
    from rich.text import Text

    if every and names:
        raise InvalidInput(
            "Give either --all or names of deployments, not both.", hint="pdctl down --all"
        )
    ended: dict[str, _Ended] = {}
    problems: list[PdctlError] = []
    chosen = _chosen(names, every=every)
    for name in chosen:
        try:
            ended[name] = _stop(name, now=now)
        except PdctlError as problem:
            problems.append(problem)
            if len(chosen) > 1 and not as_json:
                say(f"{name}: {problem.message}")
    data = {"stopped": [{"name": name, "killed": list(one.killed)} for name, one in ended.items()]}
    lines = [_line(name, one) for name, one in ended.items()]
    if not problems or (lines and not as_json):
        text = "\n".join(lines or ["No deployment is running."])
        show("down", data, as_json=as_json, render=lambda: Text(text))
    if problems:
        raise problems[0]


class _Ended(NamedTuple):
    """The end of one deployment. job: the Slurm job that was cancelled before anything ran."""

    killed: tuple[str, ...] = ()
    job: str | None = None


def _chosen(names: list[str] | None, *, every: bool) -> tuple[str, ...]:
    """The deployments to stop, each once. Raises StateConflict where none is named or running."""
    from pdctl.engines.lifecycle import running

    if every:
        return running.names()
    return tuple(dict.fromkeys(names)) if names else (running.chosen_name(None),)


def _stop(name: str, *, now: bool) -> _Ended:
    """Stop one deployment, with the Slurm job it runs in, and say what its processes do."""
    from pdctl.engines.lifecycle import running, submitted
    from pdctl.tables.deployments import change_lines

    last: DeploymentState | None = None

    def tell(state: "DeploymentState") -> None:
        nonlocal last
        for line in change_lines(last, state) if last else ():
            say(line)
        last = state

    job = submitted.submitted_job(name)
    waits = job is not None and not running.is_running(name)
    killed = () if waits else running.stop(name, now=now, tell=tell)
    if job is not None:
        submitted.end_job(job)
    return _Ended(killed, str(job.number) if job is not None and waits else None)


def _line(name: str, ended: _Ended) -> str:
    if ended.job is not None:
        return f"Cancelled Slurm job {ended.job} of {name}."
    by_force = f" Killed by force: {', '.join(ended.killed)}." if ended.killed else ""
    return f"Stopped {name}.{by_force}"
