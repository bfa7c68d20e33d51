"""`pdctl explain`: where the time of slow requests went, and whose fault it was."""

from pathlib import Path

import typer

from pdctl.errors import InvalidInput
from pdctl.units import parse_duration_s


def explain(
    request: list[str] = typer.Argument(
        None, help="Id of a request, or its first characters. Default: the slowest requests."
    ),
    slowest: int | None = typer.Option(
        None, "--slowest", min=1, help="Number of slowest requests. Default: 20."
    ),
    window: str = typer.Option(
        None, "--window", help="Only this much time before the last request in the logs: 5m."
    ),
    by: str = typer.Option(
        "ttft", "--by", help="ttft: slow to the first token; tpot: slow per token."
    ),
    name: str | None = typer.Option(
        None, "-n", "--name", help="Deployment, running or ended. Default: the only one."
    ),
    logs: list[Path] = typer.Option(
        None,
        "--logs",
        help="Logs of engines that pdctl did not start (.gz and rotated too), or a folder.",
    ),
    report: Path | None = typer.Option(
        None, "--report", help="Write a self-contained HTML page to this file."
    ),
    replay: bool = typer.Option(
        True, "--replay/--no-replay", help="Simulate the requests on other splits too."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Show where the time of slow requests went, and whose fault it was.

    Reads the line that engines log for every request; `up` turns it on.

    \b
    Examples:
      pdctl explain --slowest 5 --window 10m
      pdctl explain 3f2a91 -n chat
      pdctl explain --logs prefill.log decode.log --report slow.html
    """
    from pdctl.commands import explain_run

    words = list(request or ())
    rid = explain_run.rid_among(words, given_logs=bool(logs))
    if rid and slowest:
        raise InvalidInput(
            f"--slowest {slowest} and the id {rid!r} cannot be combined.", hint="drop one of them"
        )
    found = explain_run.Wanted(
        rid=rid,
        slowest=slowest or 20,
        window_s=parse_duration_s(window, flag="--window") if window else None,
        by_tpot=explain_run.is_by_tpot(by),
        name=name,
        logs=explain_run.log_files([*(logs or ()), *explain_run.paths_among(words, bool(logs))]),
        report=report,
        replay=replay,
        as_json=as_json,
    )
    explain_run.explain_and_print(found)
