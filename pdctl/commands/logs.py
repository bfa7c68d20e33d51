"""`pdctl logs`: what engines, router and supervisor wrote."""

import sys
from pathlib import Path

import typer


def logs(
    process: str | None = typer.Argument(None, help="An engine or the router; usual: all."),
    name: str | None = typer.Option(None, "--name", help="Of the deployment."),
    follow: bool = typer.Option(False, "-f", "--follow", help="Go on with new lines."),
    events: bool = typer.Option(False, "--events", help="What the supervisor decided, and when."),
    tail: int = typer.Option(40, "--tail", min=0, help="How many of the last lines; 0: none."),
    bundle: Path | None = typer.Option(
        None, "--bundle", help="Pack all of it, without secrets, into FILE.tar.gz to report a bug."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object; not with -f."),
) -> None:
    """Show logs, also of a deployment that has ended.

    \b
    Examples:
      pdctl logs -f
      pdctl logs decode-0 --tail 200
      pdctl logs --bundle report.tar.gz
    """
    from pdctl.console import print_json, printable
    from pdctl.engines.lifecycle import logs as log_files
    from pdctl.errors import InvalidInput

    if as_json and follow:
        raise InvalidInput("--json and -f exclude each other.", hint="pdctl logs --json")
    if bundle is not None and (process or follow or events):
        raise InvalidInput("--bundle packs everything.", hint="pdctl logs --bundle FILE.tar.gz")
    chosen = log_files.deployment_of_logs(name)
    if bundle is not None:
        _pack(chosen, bundle, as_json=as_json)
        return
    if events:
        lines = log_files.event_lines(chosen, tail=tail)
    else:
        lines = log_files.lines(chosen, process, tail=tail)
    if as_json:
        print_json("logs", {"name": chosen, "lines": list(lines)})
        return
    more = log_files.follow(chosen, process, of_events=events) if follow else ()
    for batch in (lines, more):
        for line in batch:
            sys.stdout.write(f"{printable(line)}\n")
        sys.stdout.flush()


def _pack(name: str, target: Path, *, as_json: bool) -> None:
    from pdctl.console import print_json, printable
    from pdctl.engines.lifecycle.bundle import write_bundle

    packed = write_bundle(name, target)
    if as_json:
        print_json("logs", {"name": name, "bundle": str(target), "files": list(packed)})
        return
    sys.stdout.write(
        f"{printable(str(target))} holds {len(packed)} files of {name}. Keys and tokens are hidden;"
        " prompts that an engine logged are not.\n"
    )
