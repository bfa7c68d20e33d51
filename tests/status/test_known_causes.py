"""Advice on histories of known cause.

`python -m tests.status.test_known_causes` prints the table.
"""

import sys
from collections import Counter, defaultdict
from dataclasses import replace
from statistics import fmean

import pytest

from pdctl.status.advice import advise
from pdctl.status.records import Advice, Cause
from tests.status.known_causes import Known, changed, known_causes
from tests.status.queue_model import Setup, history, share_served

NUM_EACH = 18
LEAST_RIGHT = 0.95
LARGEST_LOSS = 0.02  # of the share of requests that meet their limits


def advised(known: Known) -> Advice:
    return advise(history(known.setup), tpot_slo_s=known.tpot_slo_s)


def gain(known: Known, advice: Advice) -> float:
    """By how much the advised change raises the share of requests that meet their limits.

    The mean of three runs with other arrivals: which engine gets which request is chance.
    """
    assert advice.change is not None
    return fmean(
        served(changed(setup, advice.change), known) - served(setup, known)
        for seed in range(3)
        for setup in [replace(known.setup, seed=known.setup.seed + seed)]
    )


def served(setup: Setup, known: Known) -> float:
    return share_served(setup, ttft_s=known.ttft_s, tpot_s=known.tpot_s)


def table(num_each: int, first: int = 0) -> dict[tuple[str, Cause], Counter[Cause]]:
    """What was advised, for each kind of history and its true cause."""
    found: dict[tuple[str, Cause], Counter[Cause]] = defaultdict(Counter)
    for known in known_causes(num_each, first):
        found[known.kind, known.cause][advised(known).cause] += 1
    return found


@pytest.mark.slow
def test_at_least_95_percent_of_300_histories_get_their_cause() -> None:
    found = table(NUM_EACH)
    num = sum(counted.total() for counted in found.values())
    right = sum(counted[cause] for (_, cause), counted in found.items())
    assert num >= 300
    assert right >= LEAST_RIGHT * num, found


@pytest.mark.slow
def test_every_kind_of_history_is_recognised() -> None:
    found = table(6)
    rarely = [kind for (kind, cause), counted in found.items() if counted[cause] < 5]
    assert not rarely


@pytest.mark.slow
def test_no_advised_change_makes_it_worse() -> None:
    harmful = []
    num = 0
    for known in known_causes(NUM_EACH):
        advice = advised(known)
        if advice.change is None:
            continue
        num += 1
        if gain(known, advice) < -LARGEST_LOSS:
            harmful.append((known, advice))
    assert num >= 4 * NUM_EACH
    assert not harmful


@pytest.mark.parametrize("cause", ["network_bound", "stuck_transfers", "sick_engine"])
def test_a_fault_that_more_engines_do_not_mend_gets_no_change(cause: Cause) -> None:
    found = [advised(known) for known in known_causes(2) if known.cause == cause]
    assert found
    assert all(one.change is None for one in found if one.cause == cause)


def main() -> None:
    """Print the table for 60 histories a kind, and the gains of every advised change."""
    gains = defaultdict(list)
    found = table(60, first=2_000)
    for known in known_causes(60, first=2_000):
        advice = advised(known)
        if advice.change is not None:
            gains[known.kind].append(gain(known, advice))
    for (kind, cause), counted in found.items():
        others = ", ".join(f"{num} {name}" for name, num in counted.items() if name != cause)
        some = gains[kind]
        by = f"gain {min(some):+.2f} to {max(some):+.2f}" if some else ""
        right = f"{counted[cause]:3} of {counted.total():3}"
        sys.stdout.write(f"{kind:48} {cause:20} {right}  {by:24} {others}\n")


if __name__ == "__main__":
    main()
