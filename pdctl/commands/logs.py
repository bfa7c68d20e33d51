"""`pdctl logs`: show the logs of engines, router and supervisor."""

import sys
from pathlib import Path

import typer

from pdctl.console import print_json, printable
from pdctl.errors import InvalidInput


def logs(
    process: str | None = typer.Argument(None, help="An engine, or router. Default: all."),
    name: str | None = typer.Option(None, "--name", help="Name of the deployment."),
    follow: bool = typer.Option(False, "-f", "--follow", help="Keep printing new lines."),
    events: bool = typer.Option(False, "--events", help="Show the supervisor's decisions."),
    tail: int = typer.Option(40, "--tail", min=0, help="Number of last lines to show."),
    bundle: Path | None = typer.Option(
        None, "--bundle", help="Pack all logs, without secrets, into FILE.tar.gz for a bug report."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object; not with -f."),
) -> None:
    """Show logs, even of a deployment that has stopped.

    \b
    Examples:
      pdctl logs -f
      pdctl logs decode-0 --tail 200
      pdctl logs --bundle report.tar.gz
    """
    from pdctl.engines.lifecycle import logs as log_files

    if as_json and follow:
        raise InvalidInput("--json and -f exclude each other.", hint="pdctl logs --json")
    if bundle is not None and (process or follow or events):
        raise InvalidInput(
            "--bundle packs all logs and takes no PROCESS, -f or --events.",
            hint="pdctl logs --bundle FILE.tar.gz",
        )
    deployment = log_files.deployment_of_logs(name)
    if bundle is not None:
        _pack(deployment, bundle, as_json=as_json)
        return
    if events:
        lines = log_files.event_lines(deployment, tail=tail)
    else:
        lines = log_files.lines(deployment, process, tail=tail)
    if as_json:
        print_json("logs", {"name": deployment, "lines": list(lines)})
        return
    more = log_files.follow(deployment, process, of_events=events) if follow else ()
    for batch in (lines, more):
        for line in batch:
            sys.stdout.write(f"{printable(line)}\n")
        sys.stdout.flush()


def _pack(name: str, target: Path, *, as_json: bool) -> None:
    from pdctl.engines.lifecycle.bundle import write_bundle

    packed = write_bundle(name, target)
    if as_json:
        print_json("logs", {"name": name, "bundle": str(target), "files": list(packed)})
        return
    sys.stdout.write(
        f"{printable(str(target))} holds {len(packed)} files of {name}. Keys and tokens are "
        "removed; prompts that an engine logged are not.\n"
    )
