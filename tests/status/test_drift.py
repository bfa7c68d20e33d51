from collections import deque
from dataclasses import replace

import pytest

from pdctl.perf_model.records import Role
from pdctl.perf_model.simulator.steps import decode_step_s, pairs, prefill_s
from pdctl.status.drift import (
    Drift,
    DriftSample,
    Expected,
    LiveSteps,
    drift,
    drifted,
    is_enough,
    remember,
    sentence,
)
from pdctl.status.records import CounterSample
from tests.perf_model.measured import roofline
from tests.verdict.examples import TIMES

EXPECTED_TIMES = roofline("llama-3.1-8b")
CHUNK = 8192


def live(role: Role = "decode", *, slower: float = 1.0, waits_s: float = 0.0) -> LiveSteps:
    """200 prompts of 2,000 tokens, and decode steps of 20 requests of 2,000 tokens."""
    busy_s = 200 * prefill_s(EXPECTED_TIMES, 2000, pairs(2000)) * slower
    step_s = decode_step_s(EXPECTED_TIMES, 20, 40_000) * slower + waits_s
    return LiveSteps(role, 400_000, busy_s, 200, 1000, 20.0, step_s, 40_000)


def test_an_engine_as_its_profile_has_it_does_not_drift() -> None:
    assert drift(live(), EXPECTED_TIMES, CHUNK, band=0.05) == Drift(None, None)


def test_slower_clocks_are_seen_in_both_kinds_of_step() -> None:
    found = drift(live(slower=1.5), EXPECTED_TIMES, CHUNK, band=0.05)
    assert found.prefill == pytest.approx(0.5, abs=0.1)
    assert found.decode == pytest.approx(0.5, abs=0.01)


def test_a_faster_kernel_is_seen_too() -> None:
    found = drift(live(slower=0.6), EXPECTED_TIMES, CHUNK, band=0.05)
    assert found.decode == pytest.approx(-0.4, abs=0.01)


def test_prompts_that_share_steps_are_no_drift() -> None:
    together = 50 * prefill_s(EXPECTED_TIMES, 8000, 4 * pairs(2000))
    found = drift(replace(live(), prefill_busy_s=together), EXPECTED_TIMES, CHUNK, band=0.05)
    assert found.prefill is None


def test_a_colocated_engines_decode_steps_may_wait_for_prefill() -> None:
    waits = live("colocated", waits_s=0.01)
    assert drift(waits, EXPECTED_TIMES, CHUNK, band=0.05).decode is None
    assert drift(replace(waits, role="decode"), EXPECTED_TIMES, CHUNK, band=0.05).decode is not None


def test_a_wide_band_allows_more() -> None:
    assert drift(live(slower=1.5), EXPECTED_TIMES, CHUNK, band=0.30).decode is None


def test_too_little_load_tells_nothing() -> None:
    little = replace(live(slower=3.0), decode_steps=20, prefill_tokens=100)
    assert drift(little, EXPECTED_TIMES, CHUNK, band=0.05) == Drift(None, None)


def test_the_sentence_names_engine_profile_and_share() -> None:
    assert sentence(Drift(None, None), "decode-0", "h200") == ""
    text = sentence(Drift(None, 0.31), "decode-0", "h200--x")
    assert "decode-0 has drifted from its profile h200--x: decode steps 31 % slower" in text
    assert "pdctl calibrate" in text


# 10 ms per decode step and 1 µs per token of context; 100 µs per prompt token
KV_TOKENS = 100_000


def expected(role: str = "decode", dp: int = 1) -> Expected:
    return Expected(role, "h200--x", TIMES, 8000, KV_TOKENS, dp, band=0.05)  # type: ignore[arg-type]


def counted(at_s: float, step_s: float, batch: float = 8.0) -> DriftSample:
    """An engine that decodes without a pause, half full, since 0."""
    steps = at_s / step_s
    counters = CounterSample(
        prefill_tokens=0.0,
        prefill_busy_s=0.0,
        decode_steps=steps,
        decode_b=steps * batch,
        decode_t=at_s,
    )
    return DriftSample(at_s, counters, 0.5)


def minute(step_s: float) -> list[DriftSample]:
    return [counted(float(at_s), step_s) for at_s in range(100, 161)]


def test_steps_as_the_profile_has_them_are_not_mentioned() -> None:
    assert drifted("decode-0", minute(0.06), None, expected()) == ""


@pytest.mark.parametrize(("step_s", "word"), [(0.09, "50 % slower"), (0.03, "50 % faster")])
def test_other_steps_than_the_profile_s_are_told_with_their_size(step_s: float, word: str) -> None:
    said = drifted("decode-0", minute(step_s), None, expected())
    assert f"decode-0 has drifted from its profile h200--x: decode steps {word}" in said
    assert "pdctl calibrate" in said


def test_pauses_do_not_make_the_context_look_shorter() -> None:
    busy = [counted(float(at_s), 0.06) for at_s in range(100, 116)]
    idle = [DriftSample(float(at_s), busy[-1].counters, 0.0) for at_s in range(116, 161)]
    assert drifted("decode-0", busy + idle, None, expected()) == ""


def test_nothing_is_said_of_decode_where_the_context_is_not_known() -> None:
    unknown = [one._replace(kv_usage=None) for one in minute(0.09)]
    assert drifted("decode-0", unknown, None, expected()) == ""
    assert drifted("decode-0", minute(0.09), None, expected(dp=4)) == ""


def test_prefill_is_compared_only_where_the_number_of_prompts_is_known() -> None:
    seen = [
        DriftSample(at_s, CounterSample(prefill_tokens=1000 * at_s, prefill_busy_s=0.5 * at_s), 0.0)
        for at_s in (0.0, 60.0)
    ]
    assert drifted("prefill-0", seen, None, expected("prefill")) == ""
    said = drifted("prefill-0", seen, 30.0, expected("prefill"))
    assert "prefill steps 400 % slower" in said


def test_a_window_is_a_minute_of_an_engine_that_counts() -> None:
    assert not is_enough([])
    assert not is_enough([counted(0.0, 0.06), counted(59.0, 0.06)])
    assert is_enough([counted(0.0, 0.06), counted(60.0, 0.06)])
    assert not is_enough(
        [DriftSample(0.0, CounterSample(), 0.0), DriftSample(60.0, CounterSample(), 0.0)]
    )


def test_nothing_from_before_a_restart_is_remembered() -> None:
    seen: deque[DriftSample] = deque()
    for at_s in range(1, 200):
        remember(seen, counted(float(at_s), 0.06))
    assert seen[-1].at_s - seen[0].at_s == 60.0
    remember(
        seen,
        DriftSample(
            200.0, CounterSample(prefill_tokens=0.0, prefill_busy_s=0.0, decode_steps=1.0), 0.0
        ),
    )
    assert [one.at_s for one in seen] == [200.0]
