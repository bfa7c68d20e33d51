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
from tests.fuzz.targets import TARGETS

INPUTS = int(os.environ.get("PDCTL_FUZZ_INPUTS", "0"))
SEED = int(os.environ.get("PDCTL_FUZZ_SEED", "0"))
FEW = 40
# of a long run: an example costs Hypothesis 500 µs, an input its reader mostly less
PER_EXAMPLE = 50 if INPUTS else 1


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_own_errors_comes_out_of_a_reader(name: str) -> None:
    target = TARGETS[name]
    num = -(-round(INPUTS * target.share) // PER_EXAMPLE) or FEW
    tried = 0

    @seed(SEED)
    @_examples(num)
    @given(st.integers(0, 2**62))
    def read_injured(first: int) -> None:
        nonlocal tried
        for number in range(first, first + PER_EXAMPLE):
            with suppress(PdctlError):
                target.read(mutated(target.corpus, number))
            tried += 1

    @seed(SEED)
    @_examples(max(FEW, num // 20))
    @given(st.binary(max_size=300))
    def read_noise(data: bytes) -> None:
        with suppress(PdctlError):
            target.read(data)

    read_injured()
    read_noise()
    assert tried >= INPUTS * target.share


def _examples(num: int) -> settings:
    return settings(
        max_examples=num,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("name", TARGETS)
def test_the_real_inputs_are_read(name: str) -> None:
    target = TARGETS[name]
    for data in target.corpus:
        target.read(data)


def test_the_shares_are_of_one_run() -> None:
    assert sum(target.share for target in TARGETS.values()) == pytest.approx(1.0)
