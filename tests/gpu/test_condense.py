"""Tests for condensing the results of a run."""

from tests.gpu.condense import condensed


def _step(rounds: int, batch: int, seconds: float | None) -> dict[str, object]:
    return {
        "kind": "k", "what": "step", "round": rounds, "step": ["decode", batch, 0, 300 * batch],
        "seconds": seconds,
    }  # fmt: skip


def test_the_round_that_compiles_and_steps_that_failed_are_left_out() -> None:
    rows = [_step(0, 1, 9.0), _step(1, 1, 0.004), _step(2, 1, 0.006), _step(1, 2, None)]

    found = condensed("f", rows)

    assert found == {"host": "f", "kind": "k", "steps": [["decode", 1, 0, 300, 5.0, 4.0, 6.0, 2]]}


def test_verify_steps_are_taken_together_and_a_load_that_warms_up_is_left_out() -> None:
    verify = {"kind": "k", "what": "verify", "round": 0, "batch": 4}
    load = {"kind": "k", "what": "load", "num_requests": 9, "figures": []}
    rows = [
        {**verify, "gaps_s": [0.008, 0.009]},
        {**verify, "gaps_s": [0.1]},
        {**load, "load": [8, 512, 64, 3]},
        {**load, "load": [8, 512, 64, 12]},
    ]

    found = condensed("h", rows)

    assert found["verify"] == {"4": 9.0}
    assert found["loads"] == [{"load": [8, 512, 64, 12], "requests": 9}]


def test_a_prefill_step_is_taken_without_the_decode_steps_around_it() -> None:
    names = ["embed", "gemm", "ArgMaxOps"]
    sequence = [
        [0, 0, 1], [1, 2, 10], [2, 20, 1],  # decode
        [0, 9000, 1], [1, 9010, 800], [1, 9820, 100], [2, 9930, 1],  # the prompt
        [0, 9940, 1], [1, 9950, 10], [2, 9970, 1],  # decode
    ]  # fmt: skip
    row = {"kind": "k", "what": "kernels", "name": "prefill-256", "sequence": sequence}
    row["kernels"] = [[name, 3, 0.0, 0.0] for name in names]

    step = condensed("f", [row])["kernels"]["prefill-256"]

    assert (step["count"], step["busy_us"], step["span_us"]) == (4, 902, 931)
    assert step["kernels"][0] == ["gemm", 2, 900]
