"""`pdctl render`: print a deployment for another program to run."""

from pathlib import Path

import typer

from pdctl.console import print_json


def render(
    target: str = typer.Argument(
        ..., help="miles or miles-yaml (RL training), or shell (a bash script)."
    ),
    file: Path | None = typer.Option(
        None, "-f", "--file", help="Deployment file. Default: ./pd.yaml, else the last plan."
    ),
    form: str = typer.Option(
        "flag", "--as", help="For miles: flag (--prefill-num-servers) or yaml (sglang_config)."
    ),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write to this file instead of stdout."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
) -> None:
    """Print a deployment as a shell script or as a Miles configuration.

    \b
    Examples:
      pdctl render miles -f pd.yaml --as yaml -o sglang_config.yaml
      pdctl render shell > start.sh
    """

    from pdctl.commands import render_run

    export = render_run.export_for(target, form)
    text = render_run.rendered(export, file)
    if export.note:
        typer.echo(f"note: {export.note}", err=True)
    if output is not None:
        render_run.write_text(output, text)
    if as_json:
        print_json("render", {"target": target, "text": text})
    elif output is None:
        typer.echo(text, nl=False)
