"""The deployments of this user as a table."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pdctl.engines.records import FleetState
from pdctl.units import format_seconds

COLOURS = {"serving": "green", "failed": "red", "degraded": "red", "stopped": "dim"}


def ls_view(states: Sequence[FleetState], now: float) -> RenderableType:
    """One row per deployment. now: Unix seconds."""
    if not states:
        return Text("No deployment is running. pdctl up starts one.")
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False)
    for column in ("NAME", "STATE", "LAYOUT", "MODEL", "ENDPOINT", "UP FOR"):
        table.add_column(column, no_wrap=column not in ("MODEL", "STATE"), overflow="fold")
    for state in states:
        started = min((p.started_at for p in state.processes if p.started_at), default=None)
        table.add_row(
            state.name,
            Text(_phase(state), style=COLOURS.get(state.phase, "yellow")),
            state.layout,
            state.model,
            state.endpoint,
            format_seconds(None if started is None else now - started),
        )
    return table


def _phase(state: FleetState) -> str:
    tells = state.phase in ("scaling", "degraded")
    return f"{state.phase}: {state.detail}" if tells else state.phase
