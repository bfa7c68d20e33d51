"""Screens on stderr that show a deployment while it starts or changes."""

import sys
import time
from collections.abc import Callable
from typing import Protocol

from rich.live import Live

from pdctl.commands.progress import say
from pdctl.console import can_redraw, err
from pdctl.engines.lifecycle.start import Prepared
from pdctl.engines.records import DeploymentState
from pdctl.tables.deployments import change_lines, up_view

FRAME_S = 0.125
LIVE_PHASES = ("serving", "scaling", "degraded")


class Screen(Protocol):
    """Shows successive states of a deployment."""

    def show(self, state: DeploymentState | None) -> None: ...
    def close(self) -> None: ...


class LineScreen:
    """Writes one line per change of phase."""

    def __init__(self, last: DeploymentState | None = None) -> None:
        self._last = last

    def show(self, state: DeploymentState | None) -> None:
        if state is None:
            return
        for line in change_lines(self._last, state):
            say(line)
        self._last = state

    def close(self) -> None:
        return


class LiveScreen:
    """Redraws a table in place, on a terminal."""

    def __init__(self, headline: str) -> None:
        self._headline = headline
        self._live = Live(console=err(), auto_refresh=False, vertical_overflow="visible")
        self._live.start()
        self._drawn_at = 0.0
        self._last: DeploymentState | None = None

    def show(self, state: DeploymentState | None) -> None:
        self._last = state
        if time.monotonic() - self._drawn_at >= FRAME_S:
            self._draw()

    def close(self) -> None:
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        view = up_view(self._headline, self._last, time.time(), err().height)
        self._live.update(view, refresh=True)


def open_screen(headline: str) -> Screen:
    """A live screen on a terminal, otherwise lines."""
    if can_redraw(sys.stderr):
        return LiveScreen(headline)
    if headline:
        say(headline)
    return LineScreen()


def start_screen() -> Callable[[DeploymentState], None]:
    """A function that shows each state on stderr until the deployment serves or fails."""
    screen = open_screen("")
    is_open = [True]

    def tell(state: DeploymentState) -> None:
        if not is_open[0]:
            return
        screen.show(state)
        if state.phase in (*LIVE_PHASES, "failed", "stopped"):
            is_open[0] = False
            screen.close()

    return tell


def deployment_headline(prepared: Prepared) -> str:
    """llama-3.1-8b · 2P6D · 8 × H200 · SGLang 0.5.23 · NIXL over NVLink."""
    deployment = prepared.deployment
    if deployment.engine == "sim":
        gpus = f"simulated {deployment.gpus or f'{deployment.num_gpus}xH200'}"
    else:
        gpus = f"{deployment.num_gpus} × {prepared.gpu_name}" if prepared.gpu_name else "CPU"
    version = f"SGLang {prepared.version}" if prepared.version else ""
    parts = (deployment.model, deployment.layout, gpus, version, prepared.kv_path)
    return " · ".join(part for part in parts if part)
