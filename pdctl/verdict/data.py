"""A verdict as `plan --json` prints it: every figure, the question with its defaults, what next."""

from collections.abc import Sequence
from dataclasses import asdict

from pdctl.inspection import llm_size
from pdctl.inspection.records import Llm
from pdctl.verdict.closed_loop import load_text
from pdctl.verdict.records import Arm, Flip, Question, Verdict, fewest_gpus
from pdctl.workload.describe import workload_data


def verdict_data(
    question: Question, verdict: Verdict, next_commands: Sequence[str] = ()
) -> dict[str, object]:
    """The `data` of the envelope."""
    price, isl = question.usd_per_gpu_hour, question.workload.isl
    return {
        "verdict": verdict.verdict,
        "confidence": verdict.confidence,
        "decided_by": verdict.decided_by,
        "headline": verdict.headline,
        "reason": verdict.reason,
        "meets_slo": verdict.is_met,
        "rate_rps": verdict.rate_rps,
        "clients": verdict.clients,
        "most_clients": verdict.most_clients,
        "load": None if verdict.clients is None else load_text(verdict.clients),
        "rules": [asdict(rule) for rule in verdict.rules],
        "sizing": asdict(verdict.sizing) if verdict.sizing else None,
        "starts": [asdict(start) for start in verdict.starts],
        "arms": {name: arm_data(arm, price) for name, arm in verdict.arms.items()},
        "sweep": [arm_data(arm, price) for arm in verdict.sweep],
        "state_limits": asdict(verdict.state_limits) if verdict.state_limits else None,
        "flips": [flip_data(flip) for flip in verdict.flips],
        "floors": [asdict(floor) for floor in verdict.floors],
        "gpus_needed": fewest_gpus(verdict.arms),
        "warnings": list(verdict.warnings),
        "question": question_data(question),
        "model": model_data(question.llm, isl.mean if isl else None),
        "workload": workload_data(question.workload),
        "next": list(next_commands),
        "provenance": {
            **asdict(verdict.provenance),
            "band": verdict.provenance.errors.tpot.half_width,
        },
    }


def flip_data(flip: Flip) -> dict[str, object]:
    """One flip. meets_slo: False where no layout meets the SLOs there."""
    return {
        "what": flip.what,
        "from": flip.from_,
        "to": flip.to,
        "at": flip.at,
        "meets_slo": flip.is_met,
    }


def arm_data(arm: Arm, usd_per_gpu_hour: float | None = None) -> dict[str, object]:
    """One arm of verdict_data; tp, pp, dp and ep by role where the roles differ."""
    shapes = {role: asdict(shape) for role, shape in arm.parallelism.items()}
    same = len(set(arm.parallelism.values())) == 1
    sizes = next(iter(shapes.values())) if same else {}
    if not same:
        sizes = {
            key: {role: shape[key] for role, shape in shapes.items()}
            for key in ("tp", "pp", "dp", "ep")
        }
    speed = arm.tokens_per_s_per_gpu
    cost = usd_per_gpu_hour / 3600 / speed * 1e6 if usd_per_gpu_hour and speed else None
    return {
        "layout": arm.layout,
        "num_gpus": arm.num_gpus,
        **sizes,
        "ttft_s": asdict(arm.ttft_s) if arm.ttft_s else None,
        "tpot_s": asdict(arm.tpot_s) if arm.tpot_s else None,
        "ttft_at_share_s": arm.ttft_at_share_s,
        "tpot_at_share_s": arm.tpot_at_share_s,
        "capacity_rps": arm.capacity_rps,
        "estimate_rps": arm.estimate_rps,
        "goodput_rps": arm.goodput_rps,
        "attainment": arm.attainment,
        "keeps_up": arm.keeps_up,
        "meets_slo": arm.meets,
        "gpus_needed": arm.gpus_needed,
        "one_down": [asdict(down) for down in arm.one_down],
        "tokens_per_s_per_gpu": speed,
        "usd_per_million_output_tokens": cost,
        "kv_usage": arm.kv_usage,
        "infeasible": arm.infeasible,
        "throughput_rps": arm.throughput_rps,
        "steady": asdict(arm.steady) if arm.steady else None,
        "intervals": {name: asdict(between) for name, between in arm.intervals.items()},
    }


def question_data(question: Question) -> dict[str, object]:
    """Everything that was asked but the requests, defaults included."""
    cluster = question.cluster
    return {
        "model": question.llm.path or question.llm.name,
        "gpus": {
            "name": cluster.gpu.name,
            "num_nodes": cluster.num_nodes,
            "gpus_per_node": cluster.gpus_per_node,
            "hosts": list(cluster.hosts),
            "rdma_bytes_per_s": cluster.rdma_bytes_per_s,
            "most": question.max_gpus,
            "usd_per_hour": question.usd_per_gpu_hour,
        },
        "slo": asdict(question.slo),
        "total": question.total,
        "parallelism": {role: asdict(shape) for role, shape in question.parallelism.items()},
        "speculation": asdict(question.speculation) if question.speculation else None,
        "attention_backend": question.attention_backend,
        "args": {role: list(given) for role, given in question.args.items()},
        "policy": question.policy,
        "seed": question.seed,
    }


def model_data(llm: Llm, prompt_tokens: float | None) -> dict[str, object]:
    """A model's name and sizes. prompt_tokens: of the mean prompt; None: unknown."""
    return {"name": llm.name, **llm_size.size_figures(llm, prompt_tokens)}
