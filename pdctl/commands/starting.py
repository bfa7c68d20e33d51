"""What a person sees while a deployment starts that a command needs for itself."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdctl.engines.records import FleetState


def starting(words: str = "") -> "Callable[[FleetState], None]":
    """To be told each state; shows them on stderr until it serves."""
    from pdctl.commands.up_run import LineScreen, LiveScreen, Screen
    from pdctl.console import err

    screen: Screen = LiveScreen(words) if err().is_terminal else LineScreen()
    is_open = [True]

    def tell(state: "FleetState") -> None:
        if not is_open[0]:
            return
        screen.show(state)
        if state.phase in ("serving", "scaling", "degraded", "failed", "stopped"):
            is_open[0] = False
            screen.close()

    return tell
