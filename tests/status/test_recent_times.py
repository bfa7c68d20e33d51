"""Times to the first token of the last minute, from the ends of logs."""

from pathlib import Path

import pytest

from pdctl.status.recent_times import LEAST_REQUESTS, RecentTimes, recent_ttft_s
from tests.status.explain.histories import History, history, log_lines


@pytest.fixture
def told(tmp_path: Path) -> History:
    """A history whose logs lie in `tmp_path`."""
    one = history(3, "slow_link")
    for name, lines in log_lines(one.sent).items():
        (tmp_path / f"{name}.log").write_text("\n".join(lines) + "\n")
    (tmp_path / "router.log").write_text("no request\n")
    return one


def test_the_requests_of_the_last_minute_are_exact(tmp_path: Path, told: History) -> None:
    end_s = max(one.marks["end"] for one in told.sent)
    found = recent_ttft_s(tmp_path, end_s)
    assert found is not None
    recent = [one for one in told.sent if one.marks["end"] >= end_s - 59 and one.has_decode]
    true_s = sorted(one.marks["decoding"] - one.at_s for one in recent)
    assert found[0] == pytest.approx(true_s[len(true_s) // 2], rel=0.1)
    assert true_s[-3] <= found[1] <= true_s[-1] * 1.1


def test_older_requests_and_a_handful_say_nothing(tmp_path: Path, told: History) -> None:
    end_s = max(one.marks["end"] for one in told.sent)
    assert recent_ttft_s(tmp_path, end_s + 120) is None
    first_s = sorted(one.marks["end"] for one in told.sent)[LEAST_REQUESTS // 2]
    assert first_s < end_s
    assert RecentTimes(tmp_path / "elsewhere", at_once=True).ttft_s() is None
