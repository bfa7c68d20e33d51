"""When do an engine's own counters say that its profile is of another machine?"""

from dataclasses import replace

import pytest

from pdctl.perf_model.drift import Drift, LiveSteps, drift, sentence
from pdctl.perf_model.records import Role
from pdctl.perf_model.steps import decode_step_s, pairs, prefill_s
from tests.perf_model.measured import roofline

TIMES = roofline("llama-3.1-8b")
CHUNK = 8192


def live(role: Role = "decode", *, slower: float = 1.0, waits_s: float = 0.0) -> LiveSteps:
    """200 prompts of 2,000 tokens, and decode steps of 20 requests of 2,000 tokens."""
    busy_s = 200 * prefill_s(TIMES, 2000, pairs(2000)) * slower
    step_s = decode_step_s(TIMES, 20, 40_000) * slower + waits_s
    return LiveSteps(role, 400_000, busy_s, 200, 1000, 20.0, step_s, 40_000)


def test_an_engine_as_its_profile_has_it_does_not_drift() -> None:
    assert not drift(live(), TIMES, CHUNK, band=0.05).is_any


def test_slower_clocks_are_seen_in_both_kinds_of_step() -> None:
    found = drift(live(slower=1.5), TIMES, CHUNK, band=0.05)
    assert found.prefill == pytest.approx(0.5, abs=0.1)
    assert found.decode == pytest.approx(0.5, abs=0.01)


def test_a_faster_kernel_is_seen_too() -> None:
    found = drift(live(slower=0.6), TIMES, CHUNK, band=0.05)
    assert found.decode == pytest.approx(-0.4, abs=0.01)


def test_prompts_that_share_steps_are_no_drift() -> None:
    together = 50 * prefill_s(TIMES, 8000, 4 * pairs(2000))
    found = drift(replace(live(), prefill_busy_s=together), TIMES, CHUNK, band=0.05)
    assert found.prefill is None


def test_a_colocated_engines_decode_steps_may_wait_for_prefill() -> None:
    waits = live("colocated", waits_s=0.01)
    assert drift(waits, TIMES, CHUNK, band=0.05).decode is None
    assert drift(replace(waits, role="decode"), TIMES, CHUNK, band=0.05).decode is not None


def test_a_wide_band_allows_more() -> None:
    assert drift(live(slower=1.5), TIMES, CHUNK, band=0.30).decode is None


def test_too_little_load_tells_nothing() -> None:
    little = replace(live(slower=3.0), decode_steps=20, prefill_tokens=100)
    assert drift(little, TIMES, CHUNK, band=0.05) == Drift(None, None)


def test_the_sentence_names_engine_profile_and_share() -> None:
    assert sentence(Drift(None, None), "decode-0", "h200") == ""
    text = sentence(Drift(None, 0.31), "decode-0", "h200--x")
    assert "decode-0 no longer runs as h200--x has it: decode steps 31 % slower" in text
    assert "pdctl calibrate" in text
