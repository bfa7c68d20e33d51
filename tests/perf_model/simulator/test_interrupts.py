"""Ctrl-C in the middle of a replay, plain or compiled (tests/compiled.sh)."""

import subprocess
import sys
from pathlib import Path

import pytest

REPLAYS = """
import random, signal, sys
from pdctl.perf_model.simulator.simulate import find_prefixes, simulate
from tests.bench.bench_simulator import fleet, synthetic

asked = synthetic(6000, 3.4)
prefixes = find_prefixes(asked)
signal.signal(signal.SIGALRM, signal.default_int_handler)
dice, interrupted = random.Random(0), 0
for _ in range(40):
    try:
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.004, 0.04))
        while True:
            simulate(fleet(sys.argv[1]), asked, prefixes=prefixes)
    except KeyboardInterrupt:
        interrupted += 1
print(interrupted)
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["8C", "4P4D"])
def test_an_interrupt_ends_a_replay_and_not_the_program(layout: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPLAYS, layout],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "40"), done.stderr
