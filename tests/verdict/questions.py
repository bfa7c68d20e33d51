"""Questions to ask again: traces, drawn lengths, ten models, one GPU to ninety-six."""

from dataclasses import replace
from functools import cache
from pathlib import Path

from pdctl.commands.options.plan_options import PlanOptions
from pdctl.commands.plan_run import question_of
from pdctl.verdict.records import Question
from pdctl.workload.records import Workload

DATA = Path(__file__).parent.parent / "data" / "traces"
TRACES = {
    "mooncake": DATA / "mooncake_conversation_head.jsonl",
    "azure": DATA / "azure2023_code_head.csv",
    "vidur": DATA / "vidur_arxiv_summarization_lengths_head.csv",
}
# model, GPUs, requests (a trace, or prompt and output tokens), rate, TTFT, TPOT, further options
ROWS: tuple[tuple[str, str, object, float | None, str, str, dict[str, object]], ...] = (
    ("llama-3.1-8b", "1xH200", (4000, 300), 2, "1s", "30ms", {}),
    ("llama-3.1-8b", "8xH200", (4000, 300), 20, "1s", "20ms", {}),
    ("llama-3.1-8b", "8xH100", (500, 200), 5, "500ms", "15ms", {"tp": 1}),
    ("llama-3.1-8b", "2xH100", (8000, 100), 3, "2s", "40ms", {"tp": 1}),
    ("llama-3.1-8b", "8xH100", (1000, 1000), None, "1s", "12ms", {}),
    ("llama-3.1-8b", "8xH200", "azure", None, "1s", "20ms", {"tp": 1}),
    ("llama-3.1-8b", "8xH200", "vidur", 20, "2s", "25ms", {"tp": 1}),
    ("llama-3.1-8b", "8xH200", "vidur", None, "2s", "25ms", {"tp": 1}),
    ("llama-3.1-8b", "4xH200", "mooncake", None, "3s", "25ms", {"tp": 1}),
    ("llama-3.1-8b", "8xA100", (2000, 300), 5, "1s", "40ms", {"tp": 1}),
    ("llama-3.1-8b", "8xH200", (8000, 1), 5, "3s", "30ms", {"tp": 1}),
    ("qwen3-8b", "4xH200", (4000, 200), 2, "1s", "20ms", {}),
    ("qwen3-8b", "4xH200", (3000, 200), 30, "800ms", "", {"tp": 1}),
    ("qwen3-8b", "8xH200", (3000, 400), 30, "", "15ms", {"tp": 1}),
    ("qwen3-8b", "8xH200", (3000, 400), 10, "1s", "15ms", {"attainment": 0.99, "tp": 1}),
    ("qwen3-8b", "8xH200", "mooncake", 8, "3s", "20ms", {"tp": 1}),
    ("qwen3-8b", "4xH100", "azure", 20, "1s", "30ms", {"tp": 1}),
    ("qwen3-8b", "2xH200", (200, 20), 50, "200ms", "20ms", {"tp": 1}),
    ("qwen3-8b", "8xMI300X", (6000, 300), 10, "2s", "30ms", {"tp": 1}),
    ("qwen3-8b", "8xH200", (4000, 300), 10, "1s", "20ms", {"prefix_hit": 0.5, "tp": 1}),
    ("qwen3-32b", "2x8xH200:rdma400", (2000, 500), 10, "4s", "20ms", {"tp": 2}),
    ("qwen3-32b", "2x8xH200:rdma400", (4000, 300), 6, "2s", "30ms", {"tp": 2}),
    ("qwen3-32b", "2x8xH200:rdma400", (8000, 300), None, "3s", "25ms", {}),
    ("qwen3-32b", "2x8xH200:rdma400", "mooncake", None, "5s", "30ms", {"tp": 2}),
    ("qwen3-32b", "2x8xH200:rdma400", "mooncake", 6, "5s", "25ms", {"tp": 2}),
    ("qwen3-32b", "2x8xH200:rdma400", "azure", None, "2s", "40ms", {"tp": 2}),
    ("qwen3-32b", "8xH200", "vidur", 3, "4s", "30ms", {"tp": 2}),
    ("qwen3-32b", "8xH100", (600, 300), 10, "1s", "25ms", {"tp": 2}),
    ("qwen3-32b", "8xH100", (600, 300), 400, "1s", "25ms", {"tp": 2}),
    ("qwen3-32b", "8xH200", (4000, 300), 5, "2s", "30ms", {"tp": 2, "total": 4}),
    ("qwen3-32b", "8xB200", (10000, 200), 8, "2s", "20ms", {}),
    ("llama-3.1-70b", "8xH100", (3000, 150), 3, "2s", "50ms", {"tp": 4}),
    ("llama-3.1-70b", "2x8xH200:rdma400", (8192, 128), None, "2s", "50ms", {}),
    ("llama-3.1-70b", "2x8xH200:rdma400", (256, 512), 20, "500ms", "20ms", {}),
    ("llama-3.1-70b", "2x8xH200:rdma400", "azure", 4, "2s", "40ms", {"tp": 4}),
    ("llama-3.1-70b", "8xH100", (3000, 150), 7, "", "", {"prefill_tp": 2, "decode_tp": 4}),
    ("llama-3.1-70b", "8xH200", (5000, 300), 2, "3s", "40ms", {"prefill_tp": 2, "decode_tp": 4}),
    ("gpt-oss-120b", "8xB200", (64000, 400), 3, "10s", "30ms", {"prefix_hit": 0.9}),
    ("gpt-oss-120b", "8xH200", (4000, 500), 15, "1s", "20ms", {"tp": 2}),
    ("gpt-oss-120b", "8xH100", (1000, 300), None, "1s", "10ms", {}),
    ("qwen3-30b-a3b", "2xH200", (256, 100), 20, "300ms", "15ms", {"tp": 1}),
    ("qwen3-30b-a3b", "4xH200", (6000, 300), 5, "1s", "15ms", {"tp": 1}),
    ("qwen3-30b-a3b", "4xH200", "azure", 10, "1s", "20ms", {"tp": 1}),
    ("qwen3-235b-a22b", "2x8xH200:rdma400", (8192, 1000), None, "2s", "50ms", {}),
    ("qwen3-235b-a22b", "2x8xH200:rdma400", (2000, 1000), 8, "1s", "50ms", {"tp": 4}),
    ("qwen3-235b-a22b", "2x8xH200:rdma400", (512, 1000), 5, "1s", "25ms", {"tp": 8}),
    ("qwen3-235b-a22b", "2x8xH200:rdma400", "vidur", 5, "3s", "40ms", {"tp": 8}),
    ("deepseek-r1", "4x8xH200:rdma400", (8000, 500), 10, "2s", "50ms", {}),
    ("deepseek-r1", "4x8xH200:rdma400", (1000, 1000), 20, "1s", "40ms", {}),
    ("deepseek-r1", "12x8xH100:rdma400", (4000, 400), 40, "3s", "60ms", {}),
    ("deepseek-r1", "8xH200", (2000, 300), 2, "2s", "60ms", {}),
    ("deepseek-v3", "4x8xH200:rdma400", "azure", 20, "2s", "50ms", {}),
    ("deepseek-v3", "12x8xH100:rdma400", (2000, 300), None, "5s", "100ms", {}),
    ("llama-3.1-8b", "8xH200", (4000, 300), 0.001, "1s", "20ms", {"tp": 1}),
    ("llama-3.1-8b", "8xH200", (4000, 300), 1e6, "1s", "20ms", {"tp": 1}),
    ("llama-3.1-8b", "8xH200", (4000, 300), 5, "1ms", "20ms", {"tp": 1}),
    ("llama-3.1-8b", "8xL40S", (1000, 200), 5, "1s", "40ms", {"tp": 1}),
    ("qwen3-8b", "16xH100", (2500, 250), 60, "600ms", "12ms", {"tp": 1}),
    ("qwen3-32b", "4x8xH100:rdma400", (6000, 200), 12, "2s", "35ms", {"tp": 4}),
    ("qwen3-32b", "2x8xH200:rdma400", (4000, 300), 6, "2s", "30ms",
     {"tp": 2, "draft_tokens": 3, "accept_length": 2.4}),
    ("qwen3-32b", "2x8xH200:rdma400", (12035, 343), 3.4, "5s", "30ms", {"tp": 2, "seed": 7}),
    ("qwen3-8b", "4xH200", (4000, 200), 5, "1s", "20ms",
     {"args": "--attention-backend triton", "tp": 1}),
)  # fmt: skip
# of prompt and output lengths, in turn: the default, another one, none
SPREAD = ((None, None), (0.96, 2.15), (0.0, 0.0))


def name(row: int) -> str:
    """A question's name in test reports."""
    model, gpus, requests, *_ = ROWS[row]
    return f"{row}-{model}-{gpus}-{requests}"


@cache
def asked(row: int) -> Question:
    """A question of the table."""
    return question_of(options(row))[1]


def options(row: int) -> PlanOptions:
    """Its options. Drawn lengths differ from request to request in two of three."""
    model, gpus, requests, rate, ttft, tpot, more = ROWS[row]
    given = PlanOptions(model=model, gpus=gpus, rate=rate, ttft=ttft, tpot=tpot, no_input=True)
    if isinstance(requests, str):
        given = replace(given, trace=TRACES[requests])
    elif isinstance(requests, tuple):
        given = replace(given, isl=requests[0], osl=requests[1])
    if not isinstance(requests, str):
        isl_cv, osl_cv = SPREAD[row % 3]
        given = replace(given, isl_cv=isl_cv, osl_cv=osl_cv)
    return replace(given, **more)  # type: ignore[arg-type]


def at_rate(question: Question, rate_rps: float) -> Question:
    """The question asked with --rate: a trace's own requests, nearer together or farther apart."""
    from pdctl.workload.arrivals import at_rate as moved

    workload: Workload = question.workload
    requests = workload.requests
    if requests is not None:
        requests = moved(requests, rate_rps, seed=question.seed)
    return replace(question, workload=replace(workload, rate_rps=rate_rps, requests=requests))
