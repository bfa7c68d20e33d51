"""Two 1P1D pairs side by side on four GPUs, each with half of the loads of tests/gpu/arms.py.

    python -m tests.gpu.pairs OUT MODEL --other MOE --args '...' --transfer nixl --earlier PROFILE

Then, with the first pair and a free GPU: its steps measured, an engine more, another split by a
change of roles, more load than it bears, crashes; on the last GPU one engine of MOE, calibrated.
--after: seconds that all this takes, so that the loads leave it as many.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.gpu.events import SCALE_S, killed, overloaded, scaled
from tests.gpu.one import POINTS as OTHER_POINTS
from tests.gpu.one import measured_alone
from tests.gpu.rig import Point, Rig, calibrate, options_of, rig, together, urls

# of tests/gpu/arms.py, the telling ones first; the first is played on both pairs
FIRST = (
    Point(20, 512, 128, 12),
    Point(3, 8192, 128, 18),
    Point(8, 2048, 512, 15),
    Point(5, 2048, 128, 15),
    Point(0.5, 16384, 512, 20),
    Point(5, 512, 512, 15),
    Point(1.5, 8192, 128, 18),
    Point(0.6, 16384, 128, 20),
)
SECOND = (
    Point(12, 2048, 128, 12),
    Point(1.2, 16384, 128, 20),
    Point(12, 512, 512, 12),
    Point(2.4, 8192, 512, 18),
    Point(8, 512, 128, 15),
    Point(3, 2048, 512, 15),
    Point(20, 512, 128, 12),
    Point(1, 8192, 512, 18),
)
LIGHT = Point(3, 1024, 64, 12)
MORE = Point(8, 4096, 256, 15)  # for three engines


def main() -> None:
    """The run."""
    options = options_of(__doc__, earlier="", other=None, budget="40s", after="230")
    with rig(options) as run:
        together(run, [partial(_grows, run), partial(_makes_way, run)])


def _grows(run: Rig) -> None:
    """Loads, then 1P2D, 2P1D, overload and crashes."""
    state = _pair(run, "grows", "0,1,2", "30000", FIRST)
    model, name, options = run.options.model, "grows", run.options
    engines = [urls(state, role)[0] for role in ("prefill", "decode")]
    run.say(run.pdctl("doctor", name, log=name))
    together(
        run,
        [
            partial(calibrate, run, model, name, engines, options.budget, options.earlier),
            partial(run.pdctl, "scale", name, "--prefill", "1", "--decode", "2", log="scale"),
        ],
    )
    for words in ((), ("--prefill", "2")):
        if words and run.left_s > SCALE_S:
            scaled(run, state, LIGHT, *words)
        if run.left_s > MORE.seconds + 15:
            run.load(state["endpoint"], model, MORE, *_earlier(run), tag="more")
    run.pages(run.state(name), name)
    if run.left_s > 55:
        overloaded(run, run.state(name))
        killed(run, run.state(name))


def _makes_way(run: Rig) -> None:
    """The other half of the loads, and then another LLM's engine in its place."""
    _pair(run, "way", "2,3", "30100", SECOND)
    run.down("way")
    run.names.remove("way")
    model, name = run.options.other, "moe"
    state, profile = measured_alone(run, name, model, "3", "30200", "80s")
    for point in (*OTHER_POINTS, OTHER_POINTS[0]):
        if run.left_s > point.seconds + 15:
            run.load(state["endpoint"], model, point, *profile, tag=name)
    run.pages(run.state(name), name)


def _pair(run: Rig, name: str, gpus: str, port: str, points: Sequence[Point]) -> Any:
    """Up, and every load predicted from the steps of another engine before it begins."""
    model = run.options.model
    state = run.up(name, model, "1/2", gpus, "--port", port)
    for point in points:
        if run.left_s > float(run.options.after) + point.seconds:
            run.load(state["endpoint"], model, point, *_earlier(run), tag=name)
    return state


def _earlier(run: Rig) -> tuple[str, ...]:
    return ("--profile", run.options.earlier) if run.options.earlier else ()


if __name__ == "__main__":
    main()
