from dataclasses import replace

import pytest

from pdctl.verdict.flips import BEYOND
from pdctl.verdict.records import Question
from pdctl.verdict.verdict import decide
from tests.verdict.examples import equal_lengths, question


def asked(rate_rps: float) -> Question:
    workload = equal_lengths(isl=6000, osl=200, rate_rps=rate_rps)
    return replace(question("qwen3-8b", "4xH200"), workload=workload)


@pytest.mark.slow
@pytest.mark.parametrize("rate_rps", [2.0, 8.0, 14.0])
def test_a_rate_that_is_told_without_slos_has_the_other_answer_when_asked(rate_rps: float) -> None:
    told = decide(asked(rate_rps))
    for flip in told.flips:
        assert (flip.what, flip.from_, flip.from_at) == ("rate_rps", told.verdict, rate_rps)
        beyond = flip.at * (BEYOND if flip.at > rate_rps else 1 / BEYOND)
        again = [decide(asked(at), flips=False).verdict for at in (flip.at, beyond)]
        assert again == [flip.to, flip.to]


def test_without_a_rate_there_is_none_to_change() -> None:
    workload = equal_lengths(isl=1000, osl=20)
    assert decide(replace(question("qwen3-8b", "2xH200"), workload=workload)).flips == ()
