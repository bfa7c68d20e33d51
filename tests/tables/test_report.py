import re
import shutil
import subprocess
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pdctl import __version__
from pdctl.perf_model.records import QueueSample
from pdctl.tables.report import Made, log_histogram, pareto_front, report_page
from pdctl.tables.svg import ticks
from pdctl.verdict.rate_curves import RatePoint, rate_curves
from pdctl.verdict.records import Question, Verdict
from pdctl.verdict.search import one_by_one
from pdctl.verdict.verdict import decide
from pdctl.workload.describe import workload_from_trace
from pdctl.workload.records import Requests, Slo, Trace
from tests.tables.test_plan import verdict
from tests.verdict.examples import arm, question

CURVE = tuple(RatePoint(float(i), min(i, 3.0), 0.4 + i, 0.02 + i / 100) for i in range(1, 6))
MADE = Made(datetime(2026, 11, 28, 14, 42, tzinfo=timezone.utc), "pdctl plan qwen3-8b")
EVIL = "<script>alert(1)</script>&\"'"


class Tags(HTMLParser):
    """Counts HTML tags and records those that stay open."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def asked() -> Question:
    requests = Requests([i * 0.3 for i in range(60)], [i * 97 + 5 for i in range(60)], [50] * 60)
    trace = Trace(requests, (), 0, has_arrivals=True)
    made = question("qwen3-8b", "4xH200", slo=Slo(2.0, 0.03))
    return Question(made.llm, made.cluster, workload_from_trace(trace, EVIL), slo=made.slo)


def told() -> Verdict:
    queues = tuple(QueueSample(float(i), waiting=i, running=9 - i, transfer=i) for i in range(9))
    arms = {
        "colocated": arm("8C", queues=queues),
        "pd": arm("5P3D", queues=queues, capacity_rps=5.5),
    }
    return verdict(arms=arms, warnings=(EVIL,))


def page() -> str:
    curves = {"colocated": CURVE, "pd": CURVE}
    return report_page(asked(), told(), ("pdctl up", "pdctl rehearse"), curves, MADE)


def test_the_page_is_whole_and_every_tag_is_closed() -> None:
    tags = Tags()
    tags.feed(page())
    assert tags.open == []
    assert tags.seen.count("svg") == 7  # rate, split, front, two queues, two histograms
    assert tags.seen.count("table") == 4


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    text = page()
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="(?!data:,)', text) == []
    assert "http" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_what_came_from_outside_is_escaped() -> None:
    text = page()
    assert EVIL not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2  # origin and warning


def test_the_page_says_when_and_how_it_was_made() -> None:
    text = page()
    assert f"pdctl {__version__}, 2026-11-28 14:42 UTC" in text
    assert "<code>pdctl plan qwen3-8b</code>" in text


def test_the_page_marks_the_slos_and_fits_a_phone() -> None:
    text = page()
    assert text.count('class="limit"') >= 2
    assert 'name="viewport"' in text
    assert "@media (max-width: 40rem)" in text


def test_a_layout_has_one_capacity_wherever_it_is_shown() -> None:
    text = page()
    assert text.count("5P3D: 5.5") == 1
    assert "~4P4D: 4.8" in text


def test_every_chart_has_a_name_for_those_who_do_not_see_it() -> None:
    text = page()
    assert text.count('role="img" aria-label="') == text.count("<svg")


def test_it_follows_the_readers_light_or_dark_choice() -> None:
    assert "prefers-color-scheme: dark" in page()
    assert "color-scheme: light dark" in page()


def test_a_verdict_by_rules_alone_has_no_empty_charts() -> None:
    bare = question("qwen3-8b", "4xH200", isl=None, osl=None)
    told = decide(bare)
    curves = rate_curves(bare, told.arms, told.rate_rps, one_by_one)
    text = report_page(bare, told, ("pdctl up",), curves, MADE)
    assert "<svg" not in text
    assert "unknown" in text


@pytest.mark.slow
def test_curves_rise_with_the_rate_until_an_arm_has_enough() -> None:
    made = question("qwen3-8b", "2xH200", isl=1000, osl=50, slo=Slo(1.0, 0.02), rate=5)
    told = decide(made, flips=False)
    curves = rate_curves(made, told.arms, told.rate_rps, one_by_one)
    assert set(curves) == {"colocated", "pd"}
    first, *_, last = curves["colocated"]
    assert first.good_rps == pytest.approx(first.offered_rps, rel=0.05)
    assert last.good_rps < last.offered_rps


def test_the_front_holds_the_points_no_other_beats() -> None:
    assert pareto_front([(3, 1), (1, 3), (2, 2), (3, 3), (2, 2)]) == [(1, 3), (2, 2), (3, 1)]


def test_a_histogram_counts_every_length_once() -> None:
    names, counts = log_histogram([1, 1, 10, 100, 100_000])
    assert sum(counts) == 5
    assert len(names) == len(counts)
    assert log_histogram([7])[1].count(1) == 1


@pytest.mark.parametrize("top", [0.003, 1.0, 7.3, 999.0, 3e6])
def test_ticks_are_round_few_and_inside_the_axis(top: float) -> None:
    found = ticks(top)
    assert found[0] == 0
    assert 3 <= len(found) <= 11
    assert found[-1] <= top


@pytest.mark.browser
def test_a_browser_shows_the_page_without_an_error(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    (tmp_path / "plan.html").write_text(page(), encoding="utf-8")
    shot = tmp_path / "plan.png"
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--v=0", f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
            "--window-size=1300,2600", (tmp_path / "plan.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert shot.stat().st_size > 50_000
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
