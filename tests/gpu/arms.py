"""Both arms of equal GPUs: the same requests, predicted first, side by side or in turns.

    python -m tests.gpu.arms OUT MODEL --args '...' --transfer nixl [--total 2] [--budget 70s]
        [--earlier PROFILE] [--points FILE] [--crash yes]
    python -m tests.gpu.arms OUT MODELS --transfer nixl --plan PLAN

TOTAL colocated engines on the first GPUs, one prefill engine and the rest decode on the next. Every
load goes to both at once; each arm predicts it with the steps that its own engines took alone.
--points: lines of `rate isl osl [seconds]` instead of POINTS. --crash: then more load than the
split arm bears, and its supervisor and a decode engine killed while requests come.
--plan: the kinds of a plan of tests/gpu/kinds.py, whose models are folders of MODELS. The arms of a
kind use the same GPUs one after the other, without taking steps.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.gpu.events import CRASH_S, killed, overloaded
from tests.gpu.kinds import LEAST_LOAD_S, Kind, kinds
from tests.gpu.rig import Point, Rig, calibrate, options_of, rig, together, urls
from tests.gpu.servers import BASE

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
ARM_S = 100  # an arm is not started for less
EQUAL = ("--isl-cv", "0", "--osl-cv", "0")
TAIL_S = 9  # of a load beside its sending: start, warm-up, last answers


def main() -> None:
    """The run."""
    options = options_of(
        __doc__, total="2", points=None, budget="70s", earlier="", crash="", plan=None
    )
    if options.plan:
        with rig(options) as run:
            for kind in (kind for track in kinds(Path(options.plan)) for kind in track):
                for shape in (f"1/{options.total}", f"0/{options.total}"):
                    together(run, [partial(_play_kind, run, kind, shape)])
        return
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


def _play_kind(run: Rig, kind: Kind, shape: str) -> None:
    """One arm of a kind: its loads, what explain finds in its logs, and its end."""
    name = f"{kind.name}-{'pd' if shape.startswith('1') else 'c'}"
    if run.left_s < ARM_S:
        run.say(f"{name}: no time left")
        return
    model = str(Path(run.options.model) / kind.model)
    try:
        state = run.up(name, model, shape, kind.gpus, flags=f"{BASE} {kind.args}")
        for load in kind.loads:
            point = Point(*load)
            if run.left_s < point.seconds + TAIL_S + 10:
                run.say(f"{name}: no time for {load}")
                break
            warm = "-warm" if point.seconds < LEAST_LOAD_S else ""
            run.load(state["endpoint"], model, point, *EQUAL, tag=f"{name}{warm}")
        run.pages(state, name)
        explained = run.pdctl("explain", "-n", name, "--no-replay", "--json", "--slowest", "999")
        (run.out / f"explain-{name}.json").write_text(explained)
    finally:
        run.down(name)
        run.names.remove(name)


def _read_points(path: str) -> Sequence[Point]:
    """Points from lines of `rate isl osl [seconds]`."""
    rows = [line.split() for line in Path(path).read_text().splitlines() if line.strip()]
    return [Point(float(rate), *(int(n) for n in more)) for rate, *more in rows]


def _range(first: int, count: int) -> str:
    return ",".join(str(n) for n in range(first, first + count))


if __name__ == "__main__":
    main()
