"""Steps of an engine at work, from its log and from successive loads."""

from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.errors import InvalidInput
from pdctl.measurement.calibration.passive import read_step_log, steps_of_loads, steps_of_log
from pdctl.perf_model.records import Measurement
from pdctl.status.pages import EngineCounters, EngineLoad

# attribution: SGLang 0.5.23 on a CPU, a decode engine under load
DECODE = (
    "[2026-11-23 09:28:42] Decode batch, #running-req: 4, #token: 4230, token usage: 0.52, "
    "pre-allocated usage: 0.00, #prealloc-req: 6, #transfer-req: 0, #retracted-req: 0, "
    "cpu graph: False, gen throughput (token/s): 1057.71, #queue-req: 3\n"
)


def prefill(
    tokens: int, rate: float, *, prompts: int = 1, waiting: int = 0, cached: int = 0
) -> str:
    return (
        f"[2026-11-23 08:36:38] Prefill batch, #new-seq: {prompts}, #new-token: {tokens}, "
        f"#cached-token: {cached}, token usage: 0.00, #running-req: 0, #queue-req: {waiting}, "
        "#pending-token: 0, #bootstrap-req: 0, #inflight-req: 1, cuda graph: False, "
        f"input throughput (token/s): {rate}\n"
    )


def test_a_prefill_with_others_waiting_before_it_took_the_time_since_the_last_line() -> None:
    lines = [prefill(8000, 100.0, waiting=3), prefill(8192, 32768.0, waiting=2, cached=1024)]
    assert list(steps_of_log(lines)) == [
        Measurement("stall", 0.25, new_tokens=8192, cached_tokens=1024)
    ]


def test_prompts_that_shared_a_step_are_a_batch() -> None:
    lines = [prefill(8000, 100.0, waiting=3), prefill(4000, 20000.0, prompts=4)]
    assert list(steps_of_log(lines)) == [Measurement("stall", 0.2, batch=4, new_tokens=1000)]


def test_a_prefill_on_an_idle_engine_gives_no_step() -> None:
    assert list(steps_of_log([prefill(500, 68.57), prefill(500, 68.57)])) == []


def test_two_successive_decode_lines_give_the_mean_step_between() -> None:
    found = list(steps_of_log([DECODE, DECODE]))
    assert [(m.kind, m.batch, m.context) for m in found] == [("decode", 4, 4230)]
    assert found[0].seconds == pytest.approx(4 / 1057.71)


def test_a_decode_line_after_a_prefill_gives_no_step() -> None:
    assert list(steps_of_log([DECODE, prefill(500, 1000.0), DECODE])) == []


def test_a_decode_line_with_another_batch_gives_no_step() -> None:
    other = DECODE.replace("#running-req: 4", "#running-req: 5")
    assert list(steps_of_log([DECODE, other])) == []


def test_broken_lines_are_passed_over() -> None:
    lines = [DECODE, "Decode batch, #running-req: nonsense\n", "Prefill batch\n", "\n", DECODE]
    assert list(steps_of_log(lines)) == []


def test_a_file_without_such_lines_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("hello\n")
    with pytest.raises(InvalidInput, match=r"engine\.log has no 'Prefill batch'"):
        read_step_log(log)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_step_log(tmp_path / "missing.log")


START = EngineCounters(10_000, 3.0, steps=100, b=400, t_s=1.0, bb=1600, bt_s=4.0, g=400)


def load(counted: EngineCounters | None = START, used: int = 5000) -> EngineLoad:
    return EngineLoad(counted, running=4, waiting=0, transfer_s=0.0, used_tokens=used)


def decoded(steps: int, batch: int, step_s: float) -> EngineCounters:
    return replace(
        START,
        steps=START.steps + steps,
        b=START.b + steps * batch,
        t_s=START.t_s + steps * step_s,
        bb=START.bb + steps * batch * batch,
    )


def test_prefill_tokens_in_between_are_one_step() -> None:
    after = replace(START, prefill_tokens=12_000, prefill_busy_s=3.1)
    found = list(steps_of_loads([load(), load(after)], "prefill", 8192))
    assert [(m.kind, m.new_tokens) for m in found] == [("prefill", 2000)]
    assert found[0].seconds == pytest.approx(0.1)


def test_more_tokens_than_a_step_takes_are_left_out() -> None:
    after = replace(START, prefill_tokens=20_000, prefill_busy_s=3.5)
    assert list(steps_of_loads([load(), load(after)], "prefill", 8192)) == []


def test_a_health_check_gives_no_step() -> None:
    after = replace(START, prefill_tokens=10_001, prefill_busy_s=3.01)
    assert list(steps_of_loads([load(), load(after)], "colocated", 8192)) == []


def test_decode_steps_of_a_steady_batch_are_a_measurement_of_their_mean() -> None:
    found = list(steps_of_loads([load(used=5000), load(decoded(15, 4, 0.012), 5060)], "decode", 1))
    assert [(m.kind, m.batch, m.context) for m in found] == [("decode", 4, 5030)]
    assert found[0].seconds == pytest.approx(0.012)


def test_decode_steps_beside_a_prefill_are_left_out() -> None:
    after = replace(decoded(15, 4, 0.012), prefill_tokens=10_500, prefill_busy_s=3.05)
    found = list(steps_of_loads([load(), load(after)], "colocated", 8192))
    assert [m.kind for m in found] == ["prefill"]


def test_a_batch_that_changes_is_left_out() -> None:
    after = replace(decoded(20, 4, 0.012), bb=START.bb + 20 * 30)
    assert list(steps_of_loads([load(), load(after)], "decode", 1)) == []


def test_a_restart_in_between_gives_no_step() -> None:
    later = replace(START, prefill_tokens=50, steps=1)
    assert list(steps_of_loads([load(), load(later)], "decode", 1)) == []
    assert list(steps_of_loads([load(None), load()], "decode", 1)) == []
