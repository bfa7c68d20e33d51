"""Tests for engines that share a GPU."""

import time
from pathlib import Path

from tests.gpu.turns import Turns


def test_a_track_waits_until_all_have_started_and_the_earlier_ones_have_ended(
    tmp_path: Path,
) -> None:
    first, second = (Turns(tmp_path, track, 2) for track in range(2))

    second.started()
    assert not first.is_next()  # its own engine still starts
    first.started()
    assert first.is_next()
    assert not second.is_next()
    first.ended()
    assert second.is_next()

    second.wait(time.time() + 60)


def test_an_engine_that_fails_keeps_nobody_waiting(tmp_path: Path) -> None:
    first, second = (Turns(tmp_path, track, 2) for track in range(2))

    first.ended()
    second.started()

    assert second.is_next()
