"""`pdctl render`: a deployment for something else to run."""

from pathlib import Path

import typer

EXAMPLES = """\b
Examples:
  pdctl render miles -f pd.yaml --as yaml -o sglang_config.yaml
  pdctl render shell > start.sh
"""


def render(
    target: str = typer.Argument(..., help="miles (RL training), or shell (a bash script)."),
    file: Path | None = typer.Option(
        None, "-f", "--file", help="The deployment; ./pd.yaml, else the last plan, by default."
    ),
    form: str = typer.Option(
        "flag", "--as", help="For miles: flag (--prefill-num-servers) or yaml (sglang_config)."
    ),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write there instead of stdout."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
) -> None:
    """Print a deployment as a shell script, or as what Miles takes."""
    from pdctl.commands.render_text import note, rendered, write_text
    from pdctl.console import print_json

    text = rendered(target, file, form)
    typer.echo(note(target), nl=False, err=True)
    if output is not None:
        write_text(output, text)
    if as_json:
        print_json("render", {"target": target, "text": text})
    elif output is None:
        typer.echo(text, nl=False)


render.__doc__ = f"{render.__doc__}\n\n{EXAMPLES}"
