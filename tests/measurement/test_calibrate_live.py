"""Steps of an engine at work, from successive loads."""

from dataclasses import replace

import pytest

from pdctl.measurement.calibrate_live import steps_of_loads
from pdctl.measurement.counters import Counted, Load

START = Counted(10_000, 3.0, steps=100, b=400, t_s=1.0, bb=1600, bt_s=4.0, g=400)


def load(counted: Counted | None = START, used: int = 5000) -> Load:
    return Load(counted, running=4, waiting=0, transfer_s=0.0, used_tokens=used)


def decoded(steps: int, batch: int, step_s: float) -> Counted:
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


def test_a_health_check_is_no_step() -> None:
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


def test_a_restart_in_between_tells_nothing() -> None:
    later = replace(START, prefill_tokens=50, steps=1)
    assert list(steps_of_loads([load(), load(later)], "decode", 1)) == []
    assert list(steps_of_loads([load(None), load()], "decode", 1)) == []
