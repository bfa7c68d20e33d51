from collections import deque

import pytest

from pdctl.status.drifted import Expected, Seen, drifted, is_enough, remember
from pdctl.status.records import Counters
from tests.verdict.examples import TIMES

# 10 ms per decode step and 1 µs per token of context; 100 µs per prompt token
KV_TOKENS = 100_000


def expected(role: str = "decode", dp: int = 1) -> Expected:
    return Expected(role, "h200--x", TIMES, 8000, KV_TOKENS, dp, band=0.05)  # type: ignore[arg-type]


def counted(at_s: float, step_s: float, batch: float = 8.0) -> Seen:
    """An engine that decodes without a pause, half full, since 0."""
    steps = at_s / step_s
    counters = Counters(
        prefill_tokens=0.0,
        prefill_busy_s=0.0,
        decode_steps=steps,
        decode_b=steps * batch,
        decode_t=at_s,
    )
    return Seen(at_s, counters, 0.5)


def minute(step_s: float) -> list[Seen]:
    return [counted(float(at_s), step_s) for at_s in range(100, 161)]


def test_steps_as_the_profile_has_them_are_not_mentioned() -> None:
    assert drifted("decode-0", minute(0.06), None, expected()) == ""


@pytest.mark.parametrize(("step_s", "word"), [(0.09, "50 % slower"), (0.03, "50 % faster")])
def test_other_steps_than_the_profile_s_are_told_with_their_size(step_s: float, word: str) -> None:
    said = drifted("decode-0", minute(step_s), None, expected())
    assert f"decode-0 no longer runs as h200--x has it: decode steps {word}" in said
    assert "pdctl calibrate" in said


def test_pauses_do_not_make_the_context_look_shorter() -> None:
    busy = [counted(float(at_s), 0.06) for at_s in range(100, 116)]
    idle = [Seen(float(at_s), busy[-1].counters, 0.0) for at_s in range(116, 161)]
    assert drifted("decode-0", busy + idle, None, expected()) == ""


def test_nothing_is_said_of_decode_where_the_context_is_not_known() -> None:
    unknown = [one._replace(kv_usage=None) for one in minute(0.09)]
    assert drifted("decode-0", unknown, None, expected()) == ""
    assert drifted("decode-0", minute(0.09), None, expected(dp=4)) == ""


def test_prefill_is_compared_only_where_the_number_of_prompts_is_known() -> None:
    seen = [
        Seen(at_s, Counters(prefill_tokens=1000 * at_s, prefill_busy_s=0.5 * at_s), 0.0)
        for at_s in (0.0, 60.0)
    ]
    assert drifted("prefill-0", seen, None, expected("prefill")) == ""
    said = drifted("prefill-0", seen, 30.0, expected("prefill"))
    assert "prefill steps 400 % slower" in said


def test_a_window_is_a_minute_of_an_engine_that_counts() -> None:
    assert not is_enough([])
    assert not is_enough([counted(0.0, 0.06), counted(59.0, 0.06)])
    assert is_enough([counted(0.0, 0.06), counted(60.0, 0.06)])
    assert not is_enough([Seen(0.0, Counters(), 0.0), Seen(60.0, Counters(), 0.0)])


def test_nothing_from_before_a_restart_is_remembered() -> None:
    seen: deque[Seen] = deque()
    for at_s in range(1, 200):
        remember(seen, counted(float(at_s), 0.06))
    assert seen[-1].at_s - seen[0].at_s == 60.0
    remember(
        seen, Seen(200.0, Counters(prefill_tokens=0.0, prefill_busy_s=0.0, decode_steps=1.0), 0.0)
    )
    assert [one.at_s for one in seen] == [200.0]
