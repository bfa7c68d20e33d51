import json
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Parallelism
from pdctl.verdict.judge import Ruling
from pdctl.verdict.records import Question, Speculation, Verdict
from pdctl.verdict.rules import apply_rules
from pdctl.verdict.sentences import disagreement
from pdctl.verdict.verdict import decide, verdict_data
from pdctl.workload.describe import workload_from_trace
from pdctl.workload.records import Requests, Slo, Trace
from tests.verdict.examples import question

TP2 = {role: Parallelism(tp=2) for role in ("colocated", "prefill", "decode")}
TWO_NODES = "2x8xH200:rdma400"


def from_trace(requests: Requests, **changes: object) -> Question:
    trace = Trace(requests, ("isl", "osl"), 0, has_arrivals=True)
    workload = workload_from_trace(trace, "trace.jsonl")
    return replace(question("qwen3-8b", "4xH200"), workload=workload, **changes)  # type: ignore[arg-type]


def test_without_lengths_the_rules_answer_and_a_quarter_prefills() -> None:
    verdict = decide(question("deepseek-r1", "8x8xH200:rdma400", isl=None, osl=None, total=8))
    assert verdict.decided_by == "rules"
    assert verdict.sizing is not None
    assert (verdict.sizing.prefill, verdict.sizing.basis) == (2, "quarter")
    assert any("--isl" in warning for warning in verdict.warnings)
    assert all(arm.ttft_s is None for arm in verdict.arms.values())


def test_long_prompts_of_a_moe_under_a_tight_tpot_are_split() -> None:
    asked = question(
        "deepseek-r1", "4x8xH200:rdma400", isl=8000, osl=500, rate=10, slo=Slo(2.0, 0.05)
    )
    verdict = decide(asked)
    assert (verdict.verdict, verdict.decided_by) == ("pd", "evidence")
    assert verdict.sizing is not None
    assert verdict.sizing.basis == "simulation"
    assert verdict.headline.startswith("Split prefill and decode:")
    assert any(flip.what == "tpot_s" and flip.at > 0.05 for flip in verdict.flips)


def test_colocated_that_holds_the_rate_with_room_to_spare_is_kept() -> None:
    verdict = decide(
        question("llama-3.1-8b", "8xH200", isl=500, osl=200, rate=2, slo=Slo(2.0, 0.05))
    )
    assert verdict.verdict == "colocated"
    assert verdict.sizing is not None
    assert verdict.sizing.prefill is None
    assert "your rate" in verdict.reason


def test_one_engine_is_all_that_fits_so_nothing_is_split() -> None:
    verdict = decide(question("deepseek-r1", "8xH200", isl=1000, osl=100, rate=1))
    assert (verdict.verdict, verdict.decided_by) == ("colocated", "feasibility")


def test_a_model_that_does_not_fit_says_how_much_it_needs() -> None:
    verdict = decide(question("deepseek-r1", "2xL40S"))
    assert verdict.sizing is None
    assert "does not fit on 2 × L40S" in verdict.unmet
    assert "GiB" in verdict.unmet
    assert verdict.settle == "pdctl plan deepseek-r1 --gpus 4x8xL40S"


def test_slos_nobody_can_meet_name_the_nearest() -> None:
    verdict = decide(question(slo=Slo(0.001, 0.0001), rate=1))
    assert "No layout meets these SLOs" in verdict.unmet
    assert "the nearest: TTFT" in verdict.unmet
    assert verdict.flips == ()


def test_a_rate_beyond_any_layout_says_what_is_sustained() -> None:
    verdict = decide(question(rate=10_000, isl=2000, osl=50))
    assert "10k req/s is more than any layout here carries: the most is" in verdict.unmet


def test_prompts_beyond_the_context_are_refused() -> None:
    verdict = decide(question("qwen3-8b", isl=2_000_000, osl=10, rate=1))
    assert "exceed the 40,960 tokens of context" in verdict.unmet


def test_more_engines_than_gpus_is_bad_input() -> None:
    with pytest.raises(InvalidInput):
        decide(question(total=30, parallelism=TP2))


def test_one_output_token_and_one_request_still_get_an_answer() -> None:
    assert decide(question(osl=1, rate=1)).arms["pd"].tpot_s is not None
    lonely = decide(from_trace(Requests([0.0], [3000], [20])))
    assert lonely.arms["colocated"].ttft_s is not None


def test_all_requests_at_one_instant_get_an_answer() -> None:
    burst = decide(from_trace(Requests([0.0] * 40, [2000] * 40, [50] * 40)))
    assert burst.verdict in ("pd", "colocated", "too_close")


def test_a_trace_is_replayed_at_its_own_rate() -> None:
    times = [0.5 * i for i in range(120)]
    verdict = decide(from_trace(Requests(times, [4000] * 120, [100] * 120)))
    assert verdict.rate_rps == pytest.approx(2.0)


def test_requests_longer_than_the_context_are_counted_in_a_warning() -> None:
    lengths = [2000] * 19 + [60_000]
    verdict = decide(from_trace(Requests([float(i) for i in range(20)], lengths, [10] * 20)))
    assert any("5.0 % of the requests exceed" in warning for warning in verdict.warnings)


def test_requests_no_layout_can_serve_do_not_count_as_missed() -> None:
    times, osl = [float(i) for i in range(100)], [20] * 100
    fitting = decide(from_trace(Requests(times, [2000] * 100, osl), slo=Slo(2.0, 0.05)))
    mixed = [2000] * 80 + [60_000] * 20
    some = decide(from_trace(Requests(times, mixed, osl), slo=Slo(2.0, 0.05)))
    assert fitting.arms["colocated"].attainment == some.arms["colocated"].attainment == 1.0


def test_draft_tokens_change_the_prediction() -> None:
    plain = question("qwen3-32b", TWO_NODES, rate=4, parallelism=TP2)
    drafted = replace(plain, speculation=Speculation(3, 2.4))
    before, after = (decide(q).arms["pd"].tpot_s for q in (plain, drafted))
    assert before is not None
    assert after is not None
    assert after.mean < before.mean


def test_a_verdict_too_close_to_call_names_the_measurement_that_settles_it() -> None:
    verdict = decide(question("qwen3-32b", TWO_NODES, parallelism=TP2))
    assert verdict.verdict == "too_close"
    assert verdict.settle.startswith("pdctl measure qwen3-32b --prefill")


def test_rules_and_simulation_that_disagree_are_both_said() -> None:
    short = question("qwen3-32b", "8xH200", isl=600)
    rules = apply_rules(short.llm, short.cluster, short.workload)
    ruling = Ruling("pd", "evidence", "low", "pd")
    assert list(disagreement(rules, "colocated", ruling)) == [
        "The rules favour colocated: short prompts, one node.",
        "The simulation favours PD; it decided, with low confidence.",
    ]
    assert list(disagreement(rules, "pd", ruling)) == []


def data(verdict: Verdict) -> dict[str, object]:
    """As --json prints it: also proof that it is JSON, without NaN or infinity."""
    loaded: dict[str, object] = json.loads(json.dumps(verdict_data(verdict), allow_nan=False))
    return loaded


def test_the_json_has_the_documented_shape() -> None:
    told = data(decide(question("qwen3-32b", TWO_NODES, rate=4, parallelism=TP2)))
    assert set(told) == {
        "verdict", "confidence", "decided_by", "rules", "sizing", "arms", "sweep", "flips",
        "warnings", "provenance", "clients", "load",
    }  # fmt: skip
    arms = told["arms"]
    assert isinstance(arms, dict)
    assert set(arms) == {"colocated", "pd"}
    assert arms["pd"]["tp"] == 2
    assert set(arms["pd"]["ttft_s"]) == {"mean", "p50", "p90", "p99"}
    for key in ("layout", "tpot_s", "goodput_rps", "tokens_per_s_per_gpu", "kv_usage"):
        assert key in arms["colocated"]
    rules = told["rules"]
    assert isinstance(rules, list)
    assert set(rules[0]) == {"id", "favours", "value", "threshold", "text", "source"}


def test_the_json_of_an_answer_that_is_no_has_the_same_shape() -> None:
    assert set(data(decide(question("deepseek-r1", "2xL40S")))) == set(
        data(decide(question(isl=None, osl=None)))
    )


def test_deciding_reads_nothing_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = question(rate=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.open", None)
    assert decide(asked) == decide(asked)
    assert list(tmp_path.iterdir()) == []


def test_one_engines_worth_of_gpus_is_judged_at_the_rate_that_was_given() -> None:
    verdict = decide(question("llama-3.1-8b", "1xH200", isl=4096, osl=128, rate=2))
    assert verdict.decided_by == "feasibility"
    assert not [w for w in verdict.warnings if "--rate" in w]
    assert [r.favours for r in verdict.rules if r.id == "decode_batch"] == ["neither"]


def test_where_only_a_split_can_be_built_it_is_the_answer() -> None:
    four = Parallelism(tp=4)
    shapes = {"colocated": Parallelism(tp=16), "prefill": four, "decode": four}
    verdict = decide(question(gpus="8xH100", rate=2, parallelism=shapes))
    assert (verdict.verdict, verdict.decided_by) == ("pd", "feasibility")
