"""Published outcomes as questions, and the table of pdctl's answers (docs/cases.md).

What stands below the table there is written by hand.

`python -m tests.verdict.cases` writes the table.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Llm
from pdctl.perf_model.records import Parallelism, Role, Serving
from pdctl.verdict.records import Question, Verdict
from pdctl.verdict.sentences import write
from pdctl.verdict.verdict import decide
from pdctl.workload.records import Burstiness, Lengths, Slo, Workload

ROOT = Path(__file__).parent.parent.parent
PUBLISHED = {
    case["id"]: case
    for case in json.loads((ROOT / "tests/data/verdict_cases.json").read_text("utf-8"))["cases"]
}
NOT_EXPRESSED = {
    "P12": "the model's shape is not public",
    "N3": "the model's shape is not public",
    "N9": "GLM-5.1's shape is not bundled",
    "N13": "Qwen2.5-7B-GPTQ-Int4's shape is not bundled",
    "N15": "no colocated arm was measured",
    "N24": "names no model, GPU or load",
}
ROLES: tuple[Role, ...] = ("colocated", "prefill", "decode")


def _lengths(mean: float, cv: float = 0.0) -> Lengths:
    """Log-normal lengths, the distribution that requests are drawn from if a cv is given."""
    sigma = math.sqrt(math.log1p(cv * cv))
    middle = math.log(mean) - sigma * sigma / 2

    def below(tokens: float) -> float:
        z = (math.log(tokens) - middle) / sigma if sigma else math.inf * (tokens - mean)
        return (1 + math.erf(z / math.sqrt(2))) / 2

    p50, p90, p99 = (math.exp(middle + z * sigma) for z in (0.0, 1.2816, 2.3263))
    return Lengths(mean, p50, p90, p99, cv, below(999.5), 1 - below(3999.5))


def _ask(
    model: str,
    gpus: str,
    isl: float | None,
    osl: float | None,
    *,
    slo: Slo = Slo(),  # noqa: B008 - frozen
    tp: int | None = None,
    total: int | None = None,
    cv: tuple[float, float] = (0.0, 0.0),
    fp8: bool = False,
    all_to_all: bool = False,
    burstiness: Burstiness | None = None,
    **load: float,
) -> Question:
    llm = read_llm(model)
    workload = Workload(
        isl=None if isl is None else _lengths(isl, cv[0]),
        osl=None if osl is None else _lengths(osl, cv[1]),
        rate_rps=load.get("rate"),
        concurrency=load.get("concurrency"),
        prefix_hit=load.get("hit"),
        burstiness=burstiness,
        requests=None,
        origin="published",
    )
    return Question(
        llm=replace(_as_fp8(llm) if fp8 else llm, max_context=131072),
        cluster=parse_gpus(gpus),
        workload=workload,
        slo=slo,
        total=total,
        parallelism={role: Parallelism(tp=tp) for role in ROLES} if tp else {},
        serving=dict.fromkeys(ROLES, Serving(all_to_all=all_to_all)),
    )


def _as_fp8(llm: Llm) -> Llm:
    return replace(llm, linear_bytes=1.0, expert_bytes=1.0, compute_dtype="fp8")


H200 = "2x8xH200:rdma400"
MOONCAKE: dict[str, Any] = {"cv": (1.31, 0.73), "hit": 0.374}
AZURE_CODE: dict[str, Any] = {"cv": (0.96, 2.15), "burstiness": Burstiness(164.0, 4.18)}
QUESTIONS: dict[str, Callable[[], Question]] = {
    "P1": lambda: _ask(
        "deepseek-v3", "12x8xH100:rdma400", 2000, 1740, slo=Slo(ttft_s=5, tpot_s=0.1),
        all_to_all=True,
    ),
    "P3": lambda: _ask(
        "deepseek-r1", "72xGB200", 4400, 1200, slo=Slo(tpot_s=0.02), all_to_all=True
    ),
    "P4": lambda: _ask(
        "deepseek-r1", "72xGB200", 8192, 256, slo=Slo(tpot_s=0.02), all_to_all=True
    ),
    "P6": lambda: _ask(
        "llama-3.1-70b", "16x8xA800:rdma200", 12035, 343, slo=Slo(30, 0.1), **MOONCAKE
    ),
    "P9": lambda: _ask(
        "llama-3.1-70b", "2x8xMI300X:rdma400", 3200, 800, tp=8, fp8=True, slo=Slo(1, 0.025),
        concurrency=128,
    ),
    "P11": lambda: _ask(
        "qwen3-235b-a22b", "8xMI300X", 2000, 1000, tp=4, fp8=True, slo=Slo(1, 0.05), rate=8
    ),
    "P16": lambda: _ask("llama-3.1-70b", H200, 8192, 128, fp8=True, slo=Slo(2, 0.05)),
    "P18": lambda: _ask("qwen3-235b-a22b", H200, 8192, 1000, fp8=True, slo=Slo(2.048, 0.05)),
    "N1": lambda: _ask("gpt-oss-120b", "8xB200", 64000, 400, hit=0.9),
    "N5": lambda: _ask("llama-3.1-8b", "2xL40S", 128, 128, tp=1),
    "N7": lambda: _ask("gpt-oss-120b", "8xH200", None, None, tp=4),
    "N12": lambda: _ask("qwen3-30b-a3b", "2xH200", 256, None, tp=1),
    "N18": lambda: _ask("llama-3.1-70b", H200, 256, 512, fp8=True, slo=Slo(0.5, 0.02)),
    "N20": lambda: _ask("llama-3.1-70b", H200, 512, 4096, fp8=True, slo=Slo(1, 0.03)),
    "N22": lambda: _ask("qwen3-235b-a22b", H200, 512, 1000, fp8=True, slo=Slo(1, 0.025)),
    "T1a": lambda: _ask(
        "qwen3-32b", H200, 12035, 343, tp=2, fp8=True, rate=3.4, slo=Slo(None, 0.04, 0.99),
        **MOONCAKE,
    ),
    "T1b": lambda: _ask("qwen3-32b", H200, 12035, 343, tp=2, fp8=True, rate=3.4, **MOONCAKE),
    "T3a": lambda: _ask(
        "qwen3-32b", "4xH200", 2048, 28, tp=1, fp8=True, rate=10.3, slo=Slo(None, 0.04, 0.99),
        **AZURE_CODE,
    ),
    "T3b": lambda: _ask(
        "qwen3-32b", "4xH200", 2048, 28, tp=1, fp8=True, rate=10.3, **AZURE_CODE
    ),
}  # fmt: skip
WHY_THEY_DIFFER = {
    "N18": "their model mixes prefill and decode in a step; SGLang runs prompts first, which "
    "raises TPOT on colocated engines",
    "P6": "their limit applies to the worst tenth of gaps, which TPOT averages out",
    "T1b": "judged by mean TTFT alone, and both agree on that",
    "T3b": "judged by mean TTFT alone, and both agree on that",
}


@dataclass(frozen=True)
class Answer:
    """pdctl's answer to a published case. agrees: None if the verdict is too close to call."""

    id: str
    expected: str
    verdict: Verdict
    agrees: bool | None

    @property
    def is_confidently_wrong(self) -> bool:
        return self.agrees is False and self.verdict.confidence != "low"


@cache
def answer(case: str) -> Answer:
    """Ask pdctl the question of one published case."""
    question = QUESTIONS[case]()
    verdict = write(question, decide(question, flips=False))
    expected = PUBLISHED[case]["expected"]
    is_open = verdict.verdict == "too_close" or not verdict.is_met
    agrees = None if is_open else verdict.verdict == expected
    if case in ("T1b", "T3b"):
        agrees = _mean_ttft(verdict, "colocated") < _mean_ttft(verdict, "pd")
    return Answer(case, expected, verdict, agrees)


def _mean_ttft(verdict: Verdict, arm: str) -> float:
    times = verdict.arms[arm].ttft_s
    assert times is not None
    return times.mean


def prefill_share(verdict: Verdict) -> float | None:
    """Prefill GPUs over all GPUs of the split."""
    arm = verdict.arms.get("pd")
    if arm is None:
        return None
    gpus = arm.counts["prefill"] * arm.parallelism["prefill"].num_gpus
    return gpus / arm.num_gpus


def table() -> str:
    """The text of docs/cases.md."""
    rows = [_line(list(COLUMNS)), _line(["---"] * len(COLUMNS))]
    rows += [_row(case) for case in PUBLISHED.values()]
    answers = [answer(case) for case in QUESTIONS]
    right = sum(a.agrees is True for a in answers)
    close = sum(a.agrees is None for a in answers)
    return HEAD.format(
        num=len(PUBLISHED), asked=len(answers), right=right, close=close,
        wrong=len(answers) - right - close,
        confident=sum(a.is_confidently_wrong for a in answers),
    ) + "\n".join(rows) + "\n"  # fmt: skip


HEAD = """\
# Published cases

Others measured, claimed or predicted these outcomes of prefill/decode disaggregation against
colocated serving. The table compares them with pdctl's answers to the same questions.
`python -m tests.verdict.cases` writes it from tests/data/verdict_cases.json, which names every
source.

pdctl can answer {asked} of the {num} cases. It agrees with {right} of them, disagrees with {wrong}
({confident} of these with more than low confidence), and leaves {close} open. No constant was
fitted to a case. All step times are rooflines; docs/accuracy.md has their intervals. "Share" is
the share of the split's GPUs that prefill has.

"""
COLUMNS = (
    "case", "kind", "source", "model, GPUs, ISL/OSL", "theirs", "ours", "confidence", "ratio",
    "share, theirs", "note",
)  # fmt: skip


def _row(case: dict[str, Any]) -> str:
    about = f"{case['model']}, {case['gpus']} {case['gpu']}, {case['isl']}/{case['osl']}"
    left = [case["id"], case["kind"], case["source"], about, f"{case['expected']} ({case['gain']})"]
    if case["id"] in NOT_EXPRESSED:
        return _line([*left, "–", "–", "–", "–", f"not asked: {NOT_EXPRESSED[case['id']]}"])
    told = answer(case["id"])
    verdict = told.verdict
    share, theirs = prefill_share(verdict), case["prefill_gpu_share"]
    shares = f"{share:.2f}, {theirs if theirs is not None else '–'}" if share else "–"
    right = [verdict.verdict, verdict.confidence, _ratio(verdict), shares, _note(told)]
    return _line([*left, *right])


def _ratio(verdict: Verdict) -> str:
    tops = [verdict.arms[a].capacity_rps for a in ("pd", "colocated") if a in verdict.arms]
    if len(tops) < 2 or not tops[0] or not tops[1]:
        return "–"
    return f"{tops[0] / tops[1]:.2f}×"


def _note(told: Answer) -> str:
    if told.agrees:
        return WHY_THEY_DIFFER.get(told.id, "")
    return WHY_THEY_DIFFER.get(told.id, "") or told.verdict.reason


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


if __name__ == "__main__":
    page = ROOT / "docs" / "cases.md"
    _, heading, prose = page.read_text(encoding="utf-8").partition("\n## ")
    page.write_text(table() + heading + prose, encoding="utf-8")
