"""Bare `pdctl`: walk a newcomer from what is here to a verdict and what to do with it."""

import typer


def guided(ctx: typer.Context) -> None:
    """Show help where nobody can be asked."""
    typer.echo(ctx.get_help())
