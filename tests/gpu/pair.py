"""One 1P1D pair on two GPUs: loads nobody fitted anything to, steps measured, overload, crashes.

    python -m tests.gpu.pair OUT MODEL --args '...' --transfer nixl [--budget 60s]
        [--parts loads,steps,overload,crash] [--first N]

Every load of POINTS is predicted with the bundled steps before it begins; AFTER_POINTS again with
the steps that `calibrate` found on this very pair.
"""

from functools import partial

from tests.gpu.events import CRASH_S, killed, overloaded
from tests.gpu.rig import Point, Rig, calibrate, options_of, rig, together, urls

# between the ones of tests/gpu/arms.py and tests/gpu/one.py
POINTS = (
    Point(10, 1024, 128, 12),
    Point(5, 3000, 256, 15),
    Point(1.2, 12000, 256, 18),
    Point(16, 700, 64, 12),
    Point(4, 1500, 512, 15),
    Point(2, 6000, 128, 18),
    Point(30, 256, 64, 10),
)
AFTER_POINTS = (Point(6, 3000, 128, 12), Point(12, 900, 256, 12))
TAIL_S = 15


def main() -> None:
    """The run."""
    options = options_of(
        __doc__, budget="60s", gpus="0,1", parts="loads,steps,overload,crash", first="99"
    )
    with rig(options) as run:
        together(run, [partial(_play, run)])


def _play(run: Rig) -> None:
    options, model = run.options, run.options.model
    state = run.up("pair", model, "1/2", options.gpus)
    parts = options.parts.split(",")
    later_s = (CRASH_S if "crash" in parts else 0) + (90 if "steps" in parts else 0)
    if "loads" in parts:
        run.say(run.pdctl("doctor", "pair", log="pair-doctor"))
        for point in POINTS[: int(options.first)]:
            if run.left_s > later_s + point.seconds + TAIL_S:
                run.load(state["endpoint"], model, point, tag="pair")
        run.pages(state, "pair")
    if "steps" in parts:
        engines = [urls(state, role)[0] for role in ("prefill", "decode")]
        profile = calibrate(run, model, "pair", engines, options.budget, "")
        for point in AFTER_POINTS:
            if run.left_s > CRASH_S + point.seconds + TAIL_S:
                run.load(state["endpoint"], model, point, *profile, tag="calibrated")
    if "overload" in parts:
        overloaded(run, state)
    if "crash" in parts:
        killed(run, state)


if __name__ == "__main__":
    main()
