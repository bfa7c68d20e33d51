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
