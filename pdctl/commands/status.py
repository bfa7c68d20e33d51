"""`pdctl status`: show every engine's load, its health, and advice."""

import sys
from pathlib import Path

import typer

from pdctl.console import can_redraw
from pdctl.errors import InvalidInput
from pdctl.units import parse_duration_s


def status(
    name: str = typer.Argument("", help="Deployment, or a router's URL. Default: the only one."),
    watch: bool = typer.Option(False, "--watch", "-w", help="Take samples until Ctrl-C."),
    once: bool = typer.Option(False, "--once", help="Take one sample, even on a terminal."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object per sample."),
    check: bool = typer.Option(
        False, "--check", help="Take one sample; exit with 5 unless everything serves."
    ),
    what_if: bool = typer.Option(
        False, "--what-if", help="Replay the latest requests on every layout of these GPUs."
    ),
    window: str = typer.Option("5m", "--window", help="With --what-if: how far to look back."),
    router: str = typer.Option("", "--router", help="URL of a router that pdctl did not start."),
    metrics_port: int = typer.Option(
        None, "--metrics-port", min=1, max=65535, help="With --router: its Prometheus port."
    ),
    interval: str = typer.Option("1s", "--interval", help="Time between samples."),
    api_key_file: Path | None = typer.Option(
        None,
        "--api-key-file",
        help="File with the API key. Default: $PDCTL_API_KEY, or the deployment's key.",
    ),
) -> None:
    """Show every engine's queues, live on a terminal, and suggest changes.

    \b
    Examples:
      pdctl status
      pdctl status --once --json
      pdctl status --what-if
      pdctl status --router http://host:30000
    """
    from pdctl.commands import status_run
    from pdctl.engines.clients.api_key import use_key_file

    if watch and (once or check):
        raise InvalidInput(
            "--watch cannot be combined with --once or --check.", hint="pdctl status --watch"
        )
    if not router and ":" in name:  # no name of a deployment has one
        router, name = name, ""
    if router and name:
        raise InvalidInput(
            "Give either NAME or --router, not both.", hint=f"pdctl status --router {router}"
        )
    if what_if and (router or watch):
        raise InvalidInput(
            "--what-if cannot be combined with --router or --watch: it reads the logs once.",
            hint="pdctl status --what-if",
        )
    if metrics_port and not router:
        raise InvalidInput("--metrics-port needs --router.", hint="pdctl status --router URL")
    interval_s = max(0.2, parse_duration_s(interval, flag="--interval"))
    use_key_file(api_key_file)
    window_s = parse_duration_s(window, flag="--window") if what_if else None
    is_live = watch or (can_redraw(sys.stdout) and not (once or as_json or check or what_if))
    name, one = status_run.open_watch(name, router, metrics_port, is_live=is_live)
    try:
        if is_live:
            status_run.show_live(name, one, interval_s, as_json=as_json)
        else:
            status_run.show_once(name, one, window_s, as_json=as_json, check=check)
    finally:
        status_run.close_watch(name, one)
