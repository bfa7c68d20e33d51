"""Step times of engines of each role, then loads on them, all roles side by side on four GPUs.

    python -m tests.gpu.calibrations OUT MODEL --moe MOE --args '...' --transfer nixl

MODEL colocated on GPU 0, MOE colocated on GPU 1, MODEL as a prefill and a decode engine on GPUs 2
and 3. Ends with an engine and a supervisor killed under load.
"""

import os
import signal
import threading
import time
from functools import partial
from typing import Any

from tests.gpu.rig import Point, Rig, options_of, rig, together

# beside the ones that tests/gpu/arms.py plays: those are not to be fitted to
POINTS = (
    Point(6, 1024, 128),
    Point(14, 1024, 128),
    Point(2, 4096, 256),
    Point(4, 4096, 64),
    Point(1, 12000, 128),
)
BUDGET_S = 110


def main() -> None:
    """The run."""
    options = options_of(__doc__, moe=None)
    with rig(options) as run:
        together(
            run,
            [
                partial(_colocated, run, options.model, "dense", "0", "30000"),
                partial(_colocated, run, options.moe or options.model, "moe", "1", "30100"),
                partial(_pair, run, options.model, "2,3", "30200"),
            ],
        )


def _colocated(run: Rig, model: str, name: str, gpu: str, port: str) -> None:
    state = run.up(name, model, "0/1", gpu, "--port", port)
    (engine,) = _urls(state, "colocated")
    profile = _calibrate(run, model, name, [engine])
    for point in POINTS:
        run.load(state["endpoint"], model, point, *profile, tag=name)
    run.load(state["endpoint"], model, POINTS[0], *profile, "--connections", "kept", tag=name)
    for point in POINTS:
        run.load(engine, model, point, *profile, "--seed", "1", tag=f"{name}-direct")
    run.pages(state, name)


def _pair(run: Rig, model: str, gpus: str, port: str) -> None:
    state = run.up("pair", model, "1/2", gpus, "--port", port)
    urls = _urls(state, "prefill") + _urls(state, "decode")
    run.say(run.pdctl("doctor", "pair", log="pair"))
    profile = _calibrate(run, model, "pair", urls)
    run.load(state["endpoint"], model, POINTS[0], *profile, tag="pair")
    run.load(state["endpoint"], model, POINTS[0], *profile, "--connections", "kept", tag="pair")
    for point in POINTS[1:]:
        run.load(state["endpoint"], model, point, *profile, tag="pair")
    _overloaded(run, model, state)
    _killed(run, model, state)


def _overloaded(run: Rig, model: str, state: Any) -> None:
    """More than the prefill engine can do: queues that grow, and what status says of them."""
    look = threading.Timer(15.0, run.pages, [state, "overload"])
    look.start()
    run.load(state["endpoint"], model, Point(14, 4096, 256, 14), tag="overload")
    look.join()


def _killed(run: Rig, model: str, state: Any) -> None:
    """SIGKILL of the supervisor, then of the decode engine, while requests come."""
    os.kill(state["supervisor_pid"], signal.SIGKILL)
    (decode,) = [p for p in state["processes"] if p["role"] == "decode"]
    kill = threading.Timer(8.0, os.kill, [decode["pid"], signal.SIGKILL])
    kill.start()
    run.load(state["endpoint"], model, Point(2, 1024, 64, 20), tag="killed")
    began = time.monotonic()
    while run.left_s > 45:
        now = run.json("status", "pair", "--once")
        if now["verdict"] == "serving":
            run.say(f"pair serves again {time.monotonic() - began:.0f} s after that load")
            run.load(state["endpoint"], model, Point(2, 1024, 64, 8), tag="again")
            break
        time.sleep(2)
    run.say(run.pdctl("logs", "--name", "pair", "--events", log="pair")[-2500:])


def _calibrate(run: Rig, model: str, name: str, urls: list[str]) -> list[str]:
    """--profile of a fresh calibration; nothing where it was refused."""
    where = [word for url in urls for word in ("--url", url)]
    file = run.out / f"{name}-profile.json"
    shown = run.pdctl(
        *("calibrate", model, *where, "--budget", f"{BUDGET_S}s", "-o", str(file)),
        *("--steps", str(run.out / f"{name}-steps.jsonl")),
        log=name,
    )
    run.say(f"{name}: {shown}")
    return ["--profile", str(file)] if file.exists() else []


def _urls(state: Any, role: str) -> list[str]:
    return [p["url"] for p in state["processes"] if p["role"] == role]


if __name__ == "__main__":
    main()
