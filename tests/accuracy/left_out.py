"""Choose the constants that were chosen on public points anew, each configuration left out in turn.

python -m tests.accuracy.left_out POINTS.json [--models DIR]

Three constants: what a request takes per further GPU and the launch of a quantised product (both
for TTFT), and a small kernel before 0.5.11 (for TPOT). For each configuration they are those with
the least median error on all others. Not a test; it sets the constants of the modules it names.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import median

from pdctl.perf_model import kernels, releases
from tests.accuracy.public_points import (
    Errors,
    Point,
    closed_loop,
    errors_of,
    given_points,
    points_parser,
    spread,
)

RANK_S = (5e-3, 10e-3, 20e-3)
QUANTISED_LAUNCH_S = (60e-6, 120e-6, 180e-6)
SMALL_S = (2.1e-6, 2.4e-6, 2.8e-6, 3.2e-6, 3.6e-6)

Size = Callable[[Errors], float]


def set_constants(rank_s: float, launch_s: float, small_s: float) -> None:
    """Let step times made from now on use these constants."""
    releases._RANK_BEFORE_S = rank_s
    kernels.QUANTISED_LAUNCH_S = launch_s
    releases._KERNELS_BEFORE = releases._KERNELS_BEFORE._replace(small_s=small_s)


def left_out(runs: Sequence[Sequence[Errors]], size: Size) -> Iterator[tuple[float, int]]:
    """For each point the error, and the place among `runs` of what the other points chose."""
    names = [errors.configuration for errors in runs[0]]
    for name in dict.fromkeys(names):
        others = [place for place, other in enumerate(names) if other != name]
        own = [place for place, other in enumerate(names) if other == name]
        best = min(
            range(len(runs)), key=lambda run: median(size(runs[run][place]) for place in others)
        )
        yield from ((size(runs[best][place]), best) for place in own)


def report(points: Sequence[Point], models: Path) -> Iterator[str]:
    """Errors of TTFT and TPOT, left out, and how often each choice was made."""

    def run(*constants: float) -> list[Errors]:
        set_constants(*constants)
        return errors_of(points, models, closed_loop, with_flags=True)

    pairs = list(product(RANK_S, QUANTISED_LAUNCH_S))
    for name, choices, runs, size in (
        ("TTFT", pairs, [run(*pair, 2.8e-6) for pair in pairs], lambda e: e.ttft),
        ("TPOT", SMALL_S, [run(10e-3, 120e-6, s) for s in SMALL_S], lambda e: e.tpot),
    ):
        found = list(left_out(runs, size))
        chosen = dict.fromkeys(choices[best] for _, best in found)
        errors = spread([error for error, _ in found])
        yield f"{name} {errors}; chosen: {', '.join(map(str, chosen))}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the errors."""
    options = points_parser(__doc__)
    for line in report(*given_points(options.parse_args(argv))):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
