"""Both arms of equal GPUs, side by side on the same requests: prediction first, then measurement.

    python -m tests.gpu.arms OUT MODEL --args '...' --transfer nixl [--total 2] [--points FILE]

TOTAL colocated engines on the first GPUs, TOTAL - 1 decode engines and one for prefill on the next.
Every load goes to both at once; the first point is played again at the end, for the noise.
--points: lines of `rate isl osl [seconds]` instead of POINTS.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.gpu.rig import Point, Rig, options_of, rig, together

POINTS = (
    Point(8, 512, 128),
    Point(16, 512, 128),
    Point(4, 2048, 128),
    Point(8, 2048, 128),
    Point(1.2, 8192, 128),
    Point(2.2, 8192, 128),
    Point(0.5, 16384, 128),
    Point(0.9, 16384, 128),
    Point(4, 512, 512),
    Point(8, 512, 512),
    Point(3, 2048, 512),
    Point(6, 2048, 512),
    Point(1, 8192, 512),
    Point(1.8, 8192, 512),
    Point(0.4, 16384, 512),
    Point(0.8, 16384, 512),
)
TAIL_S = 12  # of a load beside its sending: start, warm-up, last answers


def main() -> None:
    """The run."""
    options = options_of(__doc__, total="2", points=None, profile=None)
    total = int(options.total)
    firsts, seconds = (_range(place * total, total) for place in (0, 1))
    arms = (("colocated", f"0/{total}", firsts, "30000"), ("pd", f"1/{total}", seconds, "30100"))
    with rig(options) as run:
        together(run, [partial(play_arm, run, options, *arm) for arm in arms])


def play_arm(
    run: Rig, options: argparse.Namespace, name: str, shape: str, gpus: str, port: str
) -> None:
    """Start one arm and play every point for which there is time."""
    state = run.up(name, options.model, shape, gpus, "--port", port)
    profile = ("--profile", options.profile) if options.profile else ()
    points = read_points(options.points) if options.points else POINTS
    for n, point in enumerate((*points, points[0])):
        if run.left_s < point.seconds + TAIL_S + 20:
            run.say(f"{name}: no time for {len(points) + 1 - n} of its loads")
            break
        again = "-again" if n == len(points) else ""
        run.load(state["endpoint"], options.model, point, *profile, tag=f"{name}{again}")
    run.pages(state, name)


def read_points(path: str) -> Sequence[Point]:
    """Points from lines of `rate isl osl [seconds]`."""
    rows = [line.split() for line in Path(path).read_text().splitlines() if line.strip()]
    return [Point(float(rate), *(int(n) for n in more)) for rate, *more in rows]


def _range(first: int, count: int) -> str:
    return ",".join(str(n) for n in range(first, first + count))


if __name__ == "__main__":
    main()
