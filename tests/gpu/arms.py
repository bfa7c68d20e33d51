"""Both arms of equal GPUs, side by side: step times, then the same requests, predicted first.

    python -m tests.gpu.arms OUT MODEL --args '...' --transfer nixl [--total 2] [--budget 70s]
        [--earlier PROFILE] [--points FILE] [--crash yes]

TOTAL colocated engines on the first GPUs, one prefill engine and the rest decode on the next. Every
load goes to both at once; each arm predicts it with the steps that its own engines took alone.
--points: lines of `rate isl osl [seconds]` instead of POINTS. --crash: then more load than the
split arm bears, and its supervisor and a decode engine killed while requests come.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.gpu.events import CRASH_S, killed, overloaded
from tests.gpu.rig import Point, Rig, calibrate, options_of, rig, together, urls

POINTS = (
    Point(8, 512, 128, 15),
    Point(20, 512, 128, 12),
    Point(5, 2048, 128, 15),
    Point(12, 2048, 128, 12),
    Point(1.5, 8192, 128, 18),
    Point(3, 8192, 128, 18),
    Point(0.6, 16384, 128, 20),
    Point(1.2, 16384, 128, 20),
    Point(5, 512, 512, 15),
    Point(12, 512, 512, 12),
    Point(3, 2048, 512, 15),
    Point(8, 2048, 512, 15),
    Point(1, 8192, 512, 18),
    Point(2.4, 8192, 512, 18),
    Point(0.5, 16384, 512, 20),
    Point(1, 16384, 512, 20),
)
TAIL_S = 9  # of a load beside its sending: start, warm-up, last answers


def main() -> None:
    """The run."""
    options = options_of(__doc__, total="2", points=None, budget="70s", earlier="", crash="")
    total = int(options.total)
    first, second = (_range(place * total, total) for place in (0, 1))
    arms = (("colocated", f"0/{total}", first, "30000"), ("pd", f"1/{total}", second, "30100"))
    with rig(options) as run:
        together(run, [partial(_play_arm, run, *arm) for arm in arms])


def _play_arm(run: Rig, name: str, shape: str, gpus: str, port: str) -> None:
    """Start one arm, measure its steps, and play every point for which there is time."""
    options, model = run.options, run.options.model
    state = run.up(name, model, shape, gpus, "--port", port)
    run.pdctl("doctor", name, log=f"{name}-doctor")
    probed = [
        urls(state, role)[0] for role in ("colocated", "prefill", "decode") if urls(state, role)
    ]
    profile = calibrate(run, model, name, probed, options.budget, options.earlier)
    points = _read_points(options.points) if options.points else POINTS
    kept_s = CRASH_S if options.crash and name == "pd" else 0
    for n, point in enumerate((*points, points[0])):
        osl_s = point.osl * 0.012
        if run.left_s < point.seconds + osl_s + TAIL_S + 25 + kept_s:
            run.say(f"{name}: no time for {len(points) + 1 - n} of its loads")
            break
        again = "-again" if n == len(points) else ""
        run.load(state["endpoint"], model, point, *profile, tag=f"{name}{again}")
    run.pages(state, name)
    if kept_s:
        overloaded(run, state)
        killed(run, state)


def _read_points(path: str) -> Sequence[Point]:
    """Points from lines of `rate isl osl [seconds]`."""
    rows = [line.split() for line in Path(path).read_text().splitlines() if line.strip()]
    return [Point(float(rate), *(int(n) for n in more)) for rate, *more in rows]


def _range(first: int, count: int) -> str:
    return ",".join(str(n) for n in range(first, first + count))


if __name__ == "__main__":
    main()
