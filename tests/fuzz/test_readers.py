"""Whatever a server, a file or a log holds, pdctl answers, or says in a sentence what is wrong.

PDCTL_FUZZ_INPUTS=1000000 pytest tests/fuzz tries that many in all, PDCTL_FUZZ_SEED=N others.
"""

import os
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pdctl.errors import PdctlError
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, Target

INPUTS = int(os.environ.get("PDCTL_FUZZ_INPUTS", "0"))
SEED = int(os.environ.get("PDCTL_FUZZ_SEED", "0"))
FEW = 40


def _inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Mostly real pages with injuries; some that are nothing at all."""
    injured = st.integers(0, 2**62).map(lambda n: mutated(target.corpus, n))
    return st.one_of(injured, injured, injured, st.binary(max_size=200))


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_own_errors_comes_out_of_a_reader(name: str) -> None:
    target = TARGETS[name]

    @seed(SEED)
    @settings(
        max_examples=round(INPUTS * target.share) or FEW,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(_inputs(target))
    def read(data: bytes) -> None:
        with suppress(PdctlError):
            target.read(data)

    read()


@pytest.mark.parametrize("name", TARGETS)
def test_the_real_inputs_are_read(name: str) -> None:
    target = TARGETS[name]
    for data in target.corpus:
        target.read(data)


def test_the_shares_are_of_one_run() -> None:
    assert sum(target.share for target in TARGETS.values()) == pytest.approx(1.0)
