"""`pdctl autopilot`: move engines between prefill and decode as the load changes."""

import typer

from pdctl.units import parse_duration_s


def autopilot(
    name: str | None = typer.Argument(None, help="Deployment. Default: the only one."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Log every decision; move nothing."),
    max_moves: int = typer.Option(12, "--max-moves", min=1, help="Stop after this many moves."),
    cool_down: str = typer.Option(
        "5m", "--cool-down", help="Time after a move before the next; also the window watched."
    ),
    report: bool = typer.Option(
        False, "--report", help="Show the moves so far and their effects, and exit."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object per decision."),
) -> None:
    """Watch a deployment and move one engine at a time to the role that needs it, until Ctrl-C.

    It only watches during the first window. Afterwards it acts only on a gain that is beyond
    doubt, compares the effect of each move with its promise, and undoes a move that did not help.

    \b
    Examples:
      pdctl autopilot --dry-run
      pdctl autopilot chat --max-moves 4 --cool-down 10m
      pdctl autopilot chat --report
    """
    from pdctl.commands import autopilot_run
    from pdctl.engines.lifecycle import running
    from pdctl.status.autopilot.decision import Limits

    deployment = running.chosen_name(name)
    if report:
        autopilot_run.show_report(deployment, as_json=as_json)
        return
    limits = Limits(parse_duration_s(cool_down, flag="--cool-down"), max_moves)
    autopilot_run.run_autopilot(deployment, limits, dry_run=dry_run, as_json=as_json)
