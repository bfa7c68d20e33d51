"""`pdctl scale`: change the engine counts of a running deployment, without losing a request."""

from contextlib import ExitStack

import typer

from pdctl.errors import InvalidInput
from pdctl.units import parse_duration_s


def scale(
    name: str | None = typer.Argument(None, help="Deployment. Default: the only one."),
    prefill: int | None = typer.Option(
        None,
        "--prefill",
        help="Prefill engines. Alone: keep the total; decode engines make up the difference.",
    ),
    decode: int | None = typer.Option(
        None,
        "--decode",
        help="Decode engines. Alone: keep the total; prefill engines make up the difference.",
    ),
    total: int | None = typer.Option(
        None, "--total", help="Total engines. Alone: keep the ratio of the roles."
    ),
    undo: bool = typer.Option(
        False, "--undo", help="Go back to the engine counts before the last change."
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Show the changes and their predicted effect; change nothing."
    ),
    window: str = typer.Option(
        "10s", "--window", help="With --dry-run: watch the traffic for this long."
    ),
    no_wait: bool = typer.Option(
        False, "--no-wait", help="Return at once; the change continues in the background."
    ),
    timeout: str = typer.Option(
        "30min", "--timeout", help="Wait at most this long for the change to finish."
    ),
    drain: str | None = typer.Option(
        None, "--drain", help="Time for a removed engine to finish its requests. Default: 60s."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object at the end."),
) -> None:
    """Add, remove and move engines of a running deployment under load.

    New engines serve before old ones leave. An old engine leaves the router, finishes its
    requests and exits. Ctrl-C stops the waiting, not the change.

    \b
    Examples:
      pdctl scale --prefill 3
      pdctl scale chat --prefill 3 --dry-run
      pdctl scale --undo
    """
    from pdctl.commands import scale_run
    from pdctl.commands.progress import progress_line
    from pdctl.deployment.build import Counts
    from pdctl.engines.lifecycle import rescale, running

    timeout_s = parse_duration_s(timeout, flag="--timeout")
    window_s = parse_duration_s(window, flag="--window")
    drain_s = None if drain is None else parse_duration_s(drain, flag="--drain")
    counts = Counts(prefill, decode, total)
    if undo and counts != Counts():
        raise InvalidInput(
            "--undo cannot be combined with --prefill, --decode or --total.",
            hint="pdctl scale --undo",
        )
    deployment = running.chosen_name(name)
    counts = rescale.undo_counts(deployment) if undo else counts
    if dry_run:
        scale_run.show_dry_run(deployment, counts, window_s=window_s, as_json=as_json)
        return
    with ExitStack() as held:
        with progress_line(every_s=5.0) as show:
            change = rescale.rescale(deployment, counts, drain_s=drain_s, show=show, held=held)
        scale_run.announce(change)
        last = None if no_wait else scale_run.wait(change, timeout_s)
    scale_run.show_scale(change, last, as_json=as_json)
