"""`pdctl logs`: show the logs of engines, router and supervisor."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from pdctl.console import command_width, out, print_json, print_lines, printable
from pdctl.errors import InvalidInput
from pdctl.text_lines import wrapped
from pdctl.units import format_number_of

BAR = " | "  # between the process and its line, as log lines have it
COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green")


def logs(
    target: str | None = typer.Argument(
        None, help="A deployment, or an engine or router of the only one. Default: all of it."
    ),
    name: str | None = typer.Option(None, "--name", help="Name of the deployment."),
    process: str | None = typer.Option(None, "--process", help="Only this engine, or router."),
    follow: bool = typer.Option(False, "-f", "--follow", help="Keep printing new lines."),
    events: bool = typer.Option(False, "--events", help="Show the supervisor's decisions."),
    tail: int = typer.Option(40, "--tail", min=0, help="Number of last lines of each process."),
    bundle: Path | None = typer.Option(
        None, "--bundle", help="Pack all logs, without secrets, into FILE.tar.gz for a bug report."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object; not with -f."),
) -> None:
    """Show log lines by time, each behind the name of its process, even after a stop.

    \b
    Examples:
      pdctl logs -f
      pdctl logs chat --process decode-0 --tail 200
      pdctl logs --bundle report.tar.gz
    """
    from pdctl.engines.lifecycle import logs as log_files

    if as_json and follow:
        raise InvalidInput("--json and -f cannot be combined.", hint="pdctl logs --json")
    deployment, chosen = log_files.meant(target, name, process)
    if bundle is not None and (chosen or follow or events):
        raise InvalidInput(
            "--bundle packs all logs and takes no --process, -f or --events.",
            hint="pdctl logs --bundle FILE.tar.gz",
        )
    if bundle is not None:
        _pack(deployment, bundle, as_json=as_json)
        return
    lines: Iterable[str]
    if events:
        read_events = log_files.follow_events if follow else log_files.event_lines
        lines = read_events(deployment, tail=tail)
    else:
        read_lines = log_files.follow_logs if follow else log_files.lines
        lines = read_lines(deployment, chosen, tail=tail)
    if as_json:
        print_json("logs", {"name": deployment, "lines": list(lines)})
        return
    write = _writer(is_named=chosen is None and not events)
    for line in lines:
        write(line)
        if follow:
            sys.stdout.flush()  # a pipe would keep it


def _writer(*, is_named: bool) -> Callable[[str], None]:
    """Prints a line; on a terminal with the process in front of it in a colour of its own."""
    console = out() if is_named and sys.stdout.isatty() else None
    colours: dict[str, str] = {}

    def write(line: str) -> None:
        process, bar, text = line.partition(BAR)
        if console is None or not bar:
            sys.stdout.write(f"{printable(line)}\n")
            return
        from rich.text import Text

        colour = colours.setdefault(process, COLOURS[len(colours) % len(COLOURS)])
        console.print(Text.assemble((process + bar, colour), text), soft_wrap=True)

    return write


def _pack(name: str, target: Path, *, as_json: bool) -> None:
    from pdctl.engines.lifecycle.bundle import write_bundle

    packed = write_bundle(name, target)
    if as_json:
        print_json("logs", {"name": name, "bundle": str(target), "files": list(packed)})
        return
    files = format_number_of(len(packed), "file")
    text = (
        f"{target} holds {files} of {name}. Keys and tokens are removed; prompts that an engine "
        "logged are not."
    )
    print_lines([wrapped(text, command_width())])
