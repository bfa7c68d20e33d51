"""One colocated engine: doctor, step times measured, loads on it, through the router and past it.

python -m tests.gpu.one OUT MODEL --args '...' [--gpus 0] [--budget 110s] [--earlier PROFILE]
"""

from functools import partial
from typing import Any

from tests.gpu.rig import Point, Rig, calibrate, options_of, rig, together, urls

# beside the ones that tests/gpu/arms.py plays
POINTS = (
    Point(6, 1024, 128),
    Point(14, 1024, 128),
    Point(2, 4096, 256),
    Point(4, 4096, 64),
    Point(1, 12000, 128),
)


def main() -> None:
    """The run."""
    options = options_of(__doc__, gpus="0", budget="110s", earlier="", name="one", port="30000")
    with rig(options) as run:
        together(run, [partial(_play, run)])


def _play(run: Rig) -> None:
    options = run.options
    name, model = options.name, options.model
    state, profile = measured_alone(
        run, name, model, options.gpus, options.port, options.budget, options.earlier
    )
    (engine,) = urls(state, "colocated")
    for point in POINTS:
        run.load(state["endpoint"], model, point, *profile, tag=name)
    run.load(state["endpoint"], model, POINTS[0], *profile, tag=f"{name}-again")
    run.load(
        state["endpoint"], model, POINTS[0], *profile, "--connections", "kept", tag=f"{name}-kept"
    )
    for point in POINTS:
        run.load(engine, model, point, *profile, "--seed", "1", tag=f"{name}-direct")
    run.pages(state, name)


def measured_alone(
    run: Rig, name: str, model: str, gpus: str, port: str, budget: str, earlier: str = ""
) -> tuple[Any, list[str]]:
    """One colocated engine up, looked at and calibrated: its state, and --profile for its loads."""
    state = run.up(name, model, "0/1", gpus, "--port", port)
    run.say(run.pdctl("doctor", name, log=name))
    return state, calibrate(run, model, name, urls(state, "colocated"), budget, earlier)


if __name__ == "__main__":
    main()
