"""Tests that docs/log.md shows the steps kept in tests/data/gpu."""

from pathlib import Path

from tests.gpu.steps_table import table

LOG = Path(__file__).parents[2] / "docs" / "log.md"
PAIRS = ("fp8-pair", "next-pair")  # the log omits their decode steps and says why


def test_the_log_shows_every_measured_step() -> None:
    log = LOG.read_text()
    shown = [(kind, what, steps) for kind, what, steps, _ in table()]

    missing = [
        (kind, what)
        for kind, what, steps in shown
        if steps not in log and (what, kind) not in [("decode", pair) for pair in PAIRS]
    ]

    assert len(shown) == 55
    assert not missing
