"""What happens to a deployment on GPUs while requests come: other splits, more load, crashes."""

import os
import signal
import threading
import time
from functools import partial
from typing import Any

from pdctl.engines.launchers.local import pid_of
from tests.gpu.rig import Failed, Point, Rig, together

SCALE_S = 75  # a change of roles by restart, on GPUs whose kernels are compiled
CRASH_S = 75  # what `overloaded` and `killed` take


def scaled(run: Rig, state: Any, point: Point, *words: str) -> None:
    """Other numbers of engines by `pdctl scale`, with requests running until it is over."""
    name, model = state["name"], run.options.model
    over = threading.Event()

    def change() -> None:
        began = time.monotonic()
        try:
            run.say(run.pdctl("scale", name, *words, log="scale").strip())
            run.say(f"{' '.join(words)}: {time.monotonic() - began:.0f} s")
        finally:
            over.set()

    def ask() -> None:
        while not over.is_set():
            run.load(state["endpoint"], model, point, tag="scaling")

    together(run, [change, ask])


def overloaded(run: Rig, state: Any) -> None:
    """More than the prefill engine can do: queues that grow, and what status says of them."""
    look = threading.Timer(11.0, run.pages, [state, "overload"])
    look.start()
    run.load(state["endpoint"], run.options.model, Point(18, 4096, 256, 9), tag="overload")
    look.join()


def killed(run: Rig, state: Any) -> None:
    """SIGKILL of the supervisor, then of the last decode engine, while requests come."""
    name = state["name"]
    state = run.state(name)
    load = partial(run.load, state["endpoint"], run.options.model)
    os.kill(state["supervisor_pid"], signal.SIGKILL)
    decode = [p for p in state["processes"] if p["role"] == "decode"][-1]
    kill = threading.Timer(6.0, os.kill, [pid_of(decode["handle"]), signal.SIGKILL])
    kill.start()
    load(Point(2, 1024, 64, 10), tag="killed")
    began = time.monotonic()
    while run.left_s > 28 and not _serves(run, name):
        time.sleep(2)
    run.say(f"{name} serves again: {_serves(run, name)}, {time.monotonic() - began:.0f} s later")
    if run.left_s > 28:
        load(Point(2, 1024, 64, 5), tag="again")
    run.say(run.pdctl("logs", "--name", name, "--events", log=name)[-2500:])


def _serves(run: Rig, name: str) -> bool:
    try:
        return bool(run.json("status", name, "--once")["verdict"] == "serving")
    except Failed:
        return False
