"""Replaying the requests of a log on other splits."""

from statistics import median

from pdctl.engines.request_times import RequestTimes
from pdctl.measurement.replay import replayed, requests_of
from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator.simulate import simulate
from pdctl.status.explain.join import Halves
from tests.perf_model.fleets import split

RIDS = ["r0", "r99"]


def _served(speed: float = 1.0, cached: int = 0) -> list[Halves]:
    """One hundred long prompts with short answers, sixteen a second."""
    return [
        Halves(
            RequestTimes(
                *("prefill-0", "prefill", f"p{n}", n, 8000 + cached, 1, 1e9 + n / 16 / speed),
                cached_tokens=cached,
            ),
            RequestTimes("decode-0", "decode", f"r{n}", n, 8000 + cached, 20, 1e9 + n / 16 / speed),
        )
        for n in range(1, 101)
    ]


def _seen_s(fleet: Fleet, served: list[Halves]) -> float:
    return median(s for s in simulate(fleet, requests_of(served)).ttft_s if s is not None)


def test_a_prefill_bound_request_would_have_been_faster_with_more_prefill_engines() -> None:
    fleet, served = split(num_prefill=1, num_decode=3), _served()
    found = replayed(fleet, served, RIDS, _seen_s(fleet, served), basis="roofline")
    assert not isinstance(found, str)
    assert found.today.layout == "1P3D"
    assert [one.layout for one in found.others] == ["2P2D", "3P1D"]
    today, other = found.today.ttft_s["r99"], found.others[0].ttft_s["r99"]
    assert today is not None
    assert other is not None
    assert other < today / 2
    assert "r0" not in found.today.ttft_s  # it was not served in the window


def test_a_replay_that_does_not_resemble_what_was_seen_makes_no_statement() -> None:
    fleet, served = split(num_prefill=1, num_decode=3), _served()
    found = replayed(fleet, served, RIDS, 3 * _seen_s(fleet, served), basis="roofline")
    assert isinstance(found, str)
    assert "off by -67 % in the median TTFT" in found


def test_simulated_engines_of_any_speed_are_replayed_in_their_own_time() -> None:
    fleet = split(num_prefill=1, num_decode=3)
    seen_s = _seen_s(fleet, _served())
    found = replayed(fleet, _served(speed=10), RIDS, seen_s / 10, basis="roofline", speed=10)
    assert not isinstance(found, str)
    assert found.median_off is not None
    assert abs(found.median_off) < 0.01


def test_cached_prompt_tokens_are_left_out() -> None:
    assert set(requests_of(_served(cached=500)).isl) == {8000}
