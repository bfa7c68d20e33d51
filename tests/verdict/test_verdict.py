import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Parallelism, Serving
from pdctl.verdict.data import verdict_data
from pdctl.verdict.feasibility import ROLES, total_that_fits
from pdctl.verdict.records import Question, Speculation, Verdict, fewest_gpus
from pdctl.verdict.sentences import carried_at, disagreement, write
from pdctl.verdict.verdict import decide as facts_of
from pdctl.verdict.verdict import decide_fewest
from pdctl.workload.describe import workload_from_trace
from pdctl.workload.records import Requests, Slo, Trace
from tests.verdict.examples import equal_lengths, question

TP2 = {role: Parallelism(tp=2) for role in ("colocated", "prefill", "decode")}
TWO_NODES = "2x8xH200:rdma400"


def decide(asked: Question) -> Verdict:
    """The facts with their sentences; flips have tests of their own."""
    return write(asked, facts_of(asked, flips=False))


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


@pytest.mark.slow
def test_long_prompts_of_a_moe_under_a_tight_tpot_are_split() -> None:
    asked = question(
        "deepseek-r1",
        "4x8xH200:rdma400",
        workload=equal_lengths(isl=8000, osl=500, rate_rps=8),
        slo=Slo(2.0, 0.05),
    )
    verdict = write(asked, facts_of(asked))
    assert (verdict.verdict, verdict.decided_by) == ("pd", "evidence")
    assert verdict.sizing is not None
    assert verdict.sizing.basis == "simulation"
    assert verdict.headline.startswith("Split: run ")
    assert {flip.from_ for flip in verdict.flips} == {"pd"}
    assert any(flip.what == "rate_rps" and flip.at < 8 for flip in verdict.flips)


@pytest.mark.slow
def test_colocated_that_holds_the_rate_with_room_to_spare_is_kept() -> None:
    verdict = decide(
        question("llama-3.1-8b", "8xH200", isl=500, osl=200, rate=2, slo=Slo(2.0, 0.05))
    )
    assert verdict.verdict == "colocated"
    assert verdict.sizing is not None
    assert verdict.sizing.prefill is None
    assert "Both meet your SLOs at 2 req/s; colocated is simpler." in verdict.reason


@pytest.mark.slow
def test_an_engine_that_cannot_hold_one_request_is_no_part_of_an_answer() -> None:
    # with SGLang's chunk of 16,384, whose memory is set apart, its weights would not fit either
    chunk = {"prefill": Serving(chunk=4096)}
    asked = question(
        "deepseek-r1", "2x8xB200", isl=8000, osl=500, rate=2, slo=Slo(2.0, 0.03), serving=chunk
    )
    verdict = decide(asked)
    shapes = [shape for arm in verdict.sweep for shape in arm.parallelism.values()]
    assert Parallelism(tp=4, dp=4, ep=4) not in shapes
    assert (verdict.arms["pd"].capacity_rps or 0.0) > 0
    (left_out,) = [text for text in verdict.warnings if "cannot hold one request" in text]
    assert left_out.startswith("Prefill engines of tp4 dp4 ep4 cannot hold one request of 8,001")
    assert "MiB" in left_out


def test_gpus_that_hold_the_model_but_no_request_say_so() -> None:
    asked = question("llama-3.1-8b", "1xRTX4090", isl=60_000, osl=100, rate=1)
    verdict = decide(asked)
    assert not verdict.is_met
    assert "llama-3.1-8b fits on 1 × RTX-4090, but colocated engines of tp1 cannot" in verdict.unmet
    assert "GiB" in verdict.unmet
    assert verdict.fits_on.endswith("xRTX-4090")


def test_one_engine_is_all_that_fits_so_nothing_is_split() -> None:
    verdict = decide(question("deepseek-r1", "8xH200", isl=1000, osl=100, rate=1))
    assert (verdict.verdict, verdict.decided_by) == ("colocated", "feasibility")


def test_a_model_that_does_not_fit_says_how_much_it_needs() -> None:
    verdict = decide(question("deepseek-r1", "2xL40S"))
    assert verdict.sizing is None
    assert "does not fit on 2 × L40S" in verdict.unmet
    assert "GiB" in verdict.unmet
    assert verdict.fits_on == "4x8xL40S"


def test_gpus_that_would_do_hold_engines_of_the_size_asked_for() -> None:
    sizes = {role: Parallelism(tp=16) for role in ROLES}
    wide = question("qwen3-32b", "8xH100", parallelism=sizes)
    assert decide(wide).fits_on == "2x8xH100"
    assert decide(question("llama-3.1-70b", "1xH100")).fits_on in ("2xH100", "4xH100")


@pytest.mark.parametrize(("isl", "asked_for"), [(None, "--isl and --osl"), (8000, "--osl")])
def test_a_verdict_by_rules_alone_asks_for_the_lengths_that_were_not_given(
    isl: float | None, asked_for: str
) -> None:
    verdict = decide(question("qwen3-32b", isl=isl, osl=None))
    assert f"Rules alone: add {asked_for}, or --trace, for a prediction." in verdict.warnings


@pytest.mark.slow
def test_slos_nobody_can_meet_say_what_is_the_least() -> None:
    verdict = decide(question(slo=Slo(0.001, 0.0001), rate=1))
    assert not verdict.is_met
    assert verdict.headline == "No layout meets these SLOs, not even at a light load"
    assert verdict.reason == verdict.unmet
    assert "TTFT p90 is" in verdict.unmet
    assert " even at " in verdict.unmet
    assert "Prefill of a long prompt takes" in verdict.unmet
    assert "One decode step takes" in verdict.unmet
    assert all(floor.prefill_s <= (floor.ttft_s or 0.0) for floor in verdict.floors)
    assert verdict.flips == ()


@pytest.mark.slow
@pytest.mark.parametrize("slo", [Slo(0.5, 0.04), Slo()])
def test_a_rate_is_met_up_to_the_capacity_and_not_above(slo: Slo) -> None:
    asked = question("llama-3.1-8b", "1xL40S", isl=1000, osl=200, rate=2, slo=slo)
    known = decide(asked).arms["colocated"].capacity_rps or 0.0
    for share in (0.98, 0.99, 1.0, 1.005, 1.01, 1.02, 1.05):
        workload = replace(asked.workload, rate_rps=share * known)
        verdict = decide(replace(asked, workload=workload))
        arm = verdict.arms["colocated"]
        assert arm.capacity_rps == known or not slo.is_given
        carried = carried_at(arm, share * known)
        assert verdict.is_met == arm.meets == (carried >= share * known)


@pytest.mark.slow
def test_a_rate_beyond_any_layout_says_what_is_carried() -> None:
    verdict = decide(question(rate=10_000, isl=2000, osl=50))
    assert verdict.headline == "No layout keeps up with 10k req/s"
    assert re.match(r"The best layout, \S+, carries [\d.]+ req/s\.", verdict.reason)


@pytest.mark.slow
def test_no_layout_meets_never_stands_over_too_close_to_call() -> None:
    asked = question("qwen3-32b", TWO_NODES, rate=90, slo=Slo(2.0, 0.03), parallelism=TP2)
    verdict = decide(asked)
    assert verdict.headline == "No layout meets your SLOs at 90 req/s"
    assert verdict.verdict != "too_close"
    told = verdict_data(asked, verdict)
    assert (told["reason"], told["meets_slo"]) == (verdict.unmet, False)
    needed = fewest_gpus(verdict.arms)
    assert needed is not None
    assert f"About {needed} GPUs of this kind would be enough." in verdict.unmet


def test_prompts_beyond_the_context_are_refused() -> None:
    verdict = decide(question("qwen3-8b", isl=2_000_000, osl=10, rate=1))
    assert "the context of qwen3-8b has 40,960 tokens" in verdict.unmet


@pytest.mark.parametrize(("isl", "is_served"), [(40_957, True), (40_958, False), (40_959, False)])
def test_the_longest_request_that_is_planned_for_is_the_longest_that_engines_serve(
    isl: int, is_served: bool
) -> None:
    asked = question("qwen3-32b", "8xH200")
    load = equal_lengths(isl=isl, osl=1, rate_rps=0.5)
    verdict = decide(replace(asked, workload=load, slo=Slo(20.0, 0.05)))
    assert verdict.is_met == bool(verdict.arms) == is_served
    assert ("of which SGLang fills 40,958" in verdict.unmet) != is_served


def test_where_too_many_engines_are_asked_for_the_number_is_named_as_the_cause() -> None:
    asked = question("llama-3.1-70b", "8xH100", rate=4, total=4)
    verdict = decide(asked)
    assert "4 engines (--total) on 8 × H100 get 2 GPUs each" in verdict.unmet
    assert total_that_fits(asked) == 2
    assert verdict.fits_on == "2x8xH100"


def test_more_engines_than_gpus_is_bad_input() -> None:
    with pytest.raises(InvalidInput):
        decide(question(total=30, parallelism=TP2))


@pytest.mark.slow
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


@pytest.mark.slow
def test_requests_longer_than_the_context_are_counted_in_a_warning() -> None:
    lengths = [2000] * 19 + [60_000]
    verdict = decide(from_trace(Requests([float(i) for i in range(20)], lengths, [10] * 20)))
    assert any("5.0 % of the requests exceed" in warning for warning in verdict.warnings)


@pytest.mark.slow
def test_requests_no_layout_can_serve_do_not_count_as_missed() -> None:
    times, osl = [float(i) for i in range(100)], [20] * 100
    fitting = decide(from_trace(Requests(times, [2000] * 100, osl), slo=Slo(2.0, 0.05)))
    mixed = [2000] * 80 + [60_000] * 20
    some = decide(from_trace(Requests(times, mixed, osl), slo=Slo(2.0, 0.05)))
    assert fitting.arms["colocated"].attainment == some.arms["colocated"].attainment == 1.0


def test_a_trace_of_one_request_is_answered_with_a_caveat() -> None:
    one = from_trace(Requests([0.0], [4000], [100]), slo=Slo(1.0, 0.03))
    verdict = decide(one)
    assert verdict.is_met
    assert any(text.startswith("1 request in the file") for text in verdict.warnings)


@pytest.mark.slow
def test_draft_tokens_change_the_prediction() -> None:
    plain = question("qwen3-32b", TWO_NODES, rate=4, parallelism=TP2)
    drafted = replace(plain, speculation=Speculation(3, 2.4))
    before, after = (decide(q).arms["pd"].tpot_s for q in (plain, drafted))
    assert before is not None
    assert after is not None
    assert after.mean < before.mean


@pytest.mark.slow
def test_a_tie_says_that_the_simulation_cannot_tell_and_where_the_rules_lean() -> None:
    verdict = decide(
        question("deepseek-r1", "4x8xH200:rdma400", isl=4500, osl=500, slo=Slo(3.0, 0.12))
    )
    assert verdict.verdict == "too_close"
    assert verdict.confidence == "low"
    assert "The simulation cannot tell the arms apart" in verdict.reason
    assert "×" in verdict.reason
    least = verdict.provenance.errors.rate_ratio.high
    assert f"a gap below {least:.2f}× is within its error" in verdict.reason
    assert "The rules lean to a split" in verdict.reason


@pytest.mark.slow
def test_rules_and_simulation_that_disagree_are_both_said() -> None:
    verdict = decide(question("qwen3-32b", "8xH200", isl=600))
    told = replace(verdict, verdict="pd", evidence="pd", lean="colocated", decided_by="evidence")
    assert list(disagreement(told)) == [
        "The rules favour colocated (short prompts, one node).",
        "The simulation favours a split with low confidence, and overrules them.",
    ]
    assert list(disagreement(replace(told, lean="pd"))) == []


def test_a_role_that_does_not_fit_is_named_with_its_parallelism_and_memory() -> None:
    shapes = {"prefill": Parallelism(tp=2), "decode": Parallelism(tp=4)}
    verdict = decide(question("llama-3.1-70b", "8xH100", rate=7, parallelism=shapes))
    assert (verdict.verdict, verdict.decided_by) == ("colocated", "feasibility")
    assert "Prefill engines do not fit: llama-3.1-70b at tp 2 leaves" in verdict.reason
    assert "GiB" in verdict.reason


def test_one_gpu_says_what_a_split_would_need() -> None:
    verdict = decide(question("llama-3.1-8b", "1xH200", rate=1))
    assert "split needs two engines of at least 1 GPU each; there is only 1" in verdict.reason


@pytest.mark.slow
def test_an_arm_is_told_with_one_engine_down() -> None:
    verdict = decide(question("qwen3-8b", "4xH200", rate=20, slo=Slo(1.0, 0.03)))
    down = [one for arm in verdict.arms.values() for one in arm.one_down]
    assert down
    assert all(0 <= one.attainment <= 1 for one in down)


@pytest.mark.slow
def test_the_fewest_gpus_meet_the_slos_and_one_engine_less_does_not() -> None:
    asked = question("qwen3-8b", "8xH200", rate=12, slo=Slo(1.0, 0.03))
    fewest, verdict = decide_fewest(asked)
    assert fewest.max_gpus is not None
    assert fewest.max_gpus < 8
    assert verdict.arms[verdict.verdict].meets
    assert not facts_of(replace(asked, max_gpus=fewest.max_gpus - 1), flips=False).is_met


@pytest.mark.slow
def test_fewer_gpus_than_were_reckoned_are_asked_about_again() -> None:
    asked = question("llama-3.1-8b", "2xH200", isl=3000, rate=60, slo=Slo(1.0, 0.02))
    fewest, verdict = decide_fewest(asked)
    assert verdict.is_met
    assert fewest_gpus(verdict.arms) == fewest.max_gpus


@pytest.mark.e2e
def test_the_fewest_may_be_more_than_there_are() -> None:
    asked = question("qwen3-8b", "2xH200", rate=60, slo=Slo(1.0, 0.03))
    fewest, verdict = decide_fewest(asked)
    assert fewest.max_gpus is not None
    assert fewest.max_gpus > 2
    assert verdict.is_met


@pytest.mark.slow
def test_where_both_arms_need_as_many_gpus_the_fewest_do_not_change_the_answer() -> None:
    older = dict.fromkeys(("colocated", "prefill", "decode"), Serving(release="0.5.9"))
    asked = question("qwen3-32b", "8xH100", isl=8000, rate=3, slo=Slo(3.0, 0.04), serving=older)
    fewest, verdict = decide_fewest(asked)
    assert fewest.max_gpus == 8
    assert len({arm.gpus_needed for arm in verdict.arms.values()}) == 1
    assert verdict.verdict == decide(asked).verdict == "pd"


def test_the_fewest_need_a_rate_and_slos() -> None:
    with pytest.raises(InvalidInput, match="--fewest needs a rate and SLOs"):
        decide_fewest(question(rate=3))


@pytest.mark.slow
def test_speculative_decoding_counts_the_tokens_to_verify() -> None:
    plain = question("qwen3-32b", TWO_NODES, rate=4, parallelism=TP2)
    drafted = decide(replace(plain, speculation=Speculation(3, 2.4)))
    (rule,) = [r for r in drafted.rules if r.id == "decode_batch"]
    assert "tokens to verify in a step" in rule.text


def data(asked: Question) -> dict[str, object]:
    """As --json prints it: also proof that it is JSON, without NaN or infinity."""
    verdict = decide(asked)
    loaded: dict[str, object] = json.loads(
        json.dumps(verdict_data(asked, verdict), allow_nan=False)
    )
    return loaded


@pytest.mark.slow
def test_the_json_has_the_documented_shape() -> None:
    told = data(question("qwen3-32b", TWO_NODES, rate=4, parallelism=TP2))
    assert set(told) == {
        "verdict", "confidence", "decided_by", "headline", "reason", "meets_slo", "rate_rps",
        "clients", "most_clients", "load",
        "rules", "sizing", "starts", "arms", "sweep", "state_limits",
        "flips", "floors", "gpus_needed",
        "warnings", "question", "model", "workload", "next", "provenance",
    }  # fmt: skip
    arms = told["arms"]
    assert isinstance(arms, dict)
    assert set(arms) == {"colocated", "pd"}
    assert arms["pd"]["tp"] == 2
    intervals = arms["pd"]["intervals"]
    assert set(intervals) == {"ttft_at_share_s", "tpot_at_share_s", "capacity_rps"}
    assert all(between["low"] < arms["pd"][name] < between["high"]
               for name, between in intervals.items())  # fmt: skip
    assert set(arms["pd"]["ttft_s"]) == {"mean", "p50", "p90", "p99"}
    for key in (
        "layout",
        "tpot_s",
        "goodput_rps",
        "capacity_rps",
        "tokens_per_s_per_gpu",
        "kv_usage",
    ):
        assert key in arms["colocated"]
    rules = told["rules"]
    assert isinstance(rules, list)
    assert set(rules[0]) == {"id", "favours", "value", "threshold", "text", "source"}


def test_the_json_of_an_answer_that_is_no_has_the_same_shape() -> None:
    assert set(data(question("deepseek-r1", "2xL40S"))) == set(data(question(isl=None, osl=None)))


@pytest.mark.slow
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


@pytest.mark.slow
def test_near_the_least_latency_of_both_arms_the_simpler_one_is_enough_where_it_is_as_sure() -> (
    None
):
    near = question("qwen3-32b", "2x8xH200:rdma400", isl=8000, osl=300, rate=0.5,
                    parallelism=TP2, slo=Slo(1.3, 0.03))  # fmt: skip
    told = facts_of(near, flips=False)
    colocated, pd = (told.arms[name] for name in ("colocated", "pd"))
    assert colocated.meets
    assert pd.meets
    assert colocated.intervals["capacity_rps"].low < 0.5
    assert told.verdict == "colocated"
