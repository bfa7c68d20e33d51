"""`pdctl scale`: other numbers of engines for a running deployment, without losing a request."""

import typer


def scale(
    name: str | None = typer.Argument(None, help="Of the deployment; not needed if one runs."),
    prefill: int | None = typer.Option(
        None, "--prefill", help="Prefill engines; alone: the total stays, decode gives or takes."
    ),
    decode: int | None = typer.Option(
        None, "--decode", help="Decode engines; alone: the total stays, prefill gives or takes."
    ),
    total: int | None = typer.Option(
        None, "--total", help="Engines in all; alone: the ratio of the roles stays."
    ),
    no_wait: bool = typer.Option(False, "--no-wait", help="Return at once; it happens anyway."),
    timeout: str = typer.Option("30min", "--timeout", help="How long to wait until it is done."),
    drain: str | None = typer.Option(
        None, "--drain", help="How long requests of a leaving engine may take. Usual: 60s."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object when it is done."),
) -> None:
    """Add, remove and move engines of a running deployment under load.

    A new engine serves before an old one leaves; an old one leaves the router, finishes its
    requests and ends. Ctrl-C stops the waiting, not the change.

    \b
    Examples:
      pdctl scale --prefill 3
      pdctl scale chat --total 10
    """
    from pdctl.commands import scale_run
    from pdctl.deployment.scale import Counts
    from pdctl.engines import rescale, running
    from pdctl.units import parse_duration_s

    timeout_s = parse_duration_s(timeout, flag="--timeout")
    drain_s = None if drain is None else parse_duration_s(drain, flag="--drain")
    chosen = running.chosen_name(name)
    done = rescale.rescale(chosen, Counts(prefill, decode, total), drain_s=drain_s)
    scale_run.announce(done)
    last = None if no_wait else scale_run.wait(done, timeout_s)
    scale_run.show(done, last, as_json=as_json)
