"""Statuses made by hand, for tests of verdicts and tables."""

from dataclasses import replace

from pdctl.deployment.records import Counts
from pdctl.status.records import Advice, DeploymentStatus, EngineSample, EngineStatus, Target

PREFILL = EngineSample(
    at_s=0.0,
    role="prefill",
    waiting=41,
    bootstrap=0,
    inflight=3,
    kv_usage=0.12,
    tokens_per_s=58_100.0,
    transfer_gb_per_s=7.9,
    transfer_failures=0,
)
DECODE = EngineSample(
    at_s=0.0,
    role="decode",
    running=24,
    waiting=0,
    prealloc=0,
    transfer=1,
    retracted=0,
    kv_usage=0.31,
    tokens_per_s=1_600.0,
    ttft_p50_s=0.31,
    itl_p50_s=0.0139,
    transfer_failures=0,
)


def engine(name: str, port: int, sample: EngineSample) -> EngineStatus:
    target = Target(name, sample.role, f"http://127.0.0.1:{port}")
    return EngineStatus(target, "up", sample, age_s=0.4, breaker="closed")


BUSY = DeploymentStatus(
    name="chat",
    model="llama-3.1-8b",
    layout="2P2D",
    endpoint="http://127.0.0.1:30000",
    at_s=0.0,
    verdict="serving",
    verdict_text="",
    engines=(
        engine("prefill-0", 20000, PREFILL),
        engine("prefill-1", 20010, replace(PREFILL, waiting=38, tokens_per_s=57_400.0)),
        engine("decode-0", 20020, DECODE),
        engine("decode-1", 20030, replace(DECODE, running=23, itl_p50_s=0.0141)),
    ),
    advice=Advice(
        "prefill_bound",
        "Prefill is the bottleneck.",
        "79 waiting and growing for 60 s; decode KV at 31 %",
        change=Counts(prefill=3),
    ),
    requests_per_s=14.2,
    ttft_p50_s=0.31,
    ttft_p99_s=1.9,
    itl_p50_s=0.014,
    itl_p99_s=0.022,
    ttft_slo_s=5.0,
    tpot_slo_s=0.03,
    history={"prefill-0": tuple(float(i) for i in range(60))},
)

BROKEN = replace(
    BUSY,
    verdict="degraded",
    verdict_text="decode-1 does not answer (connection refused), and 2 more",
    engines=(
        replace(BUSY.engines[0], health="stale", age_s=12.0, problem="its numbers are 12 s old"),
        replace(BUSY.engines[1], health="starting", sample=None, age_s=None, problem="weights"),
        replace(BUSY.engines[2], breaker="open"),
        replace(BUSY.engines[3], health="unreachable", age_s=31.0, problem="connection refused"),
    ),
    advice=Advice("not_enough_evidence", "Not enough evidence for advice: 12 of 60 s watched."),
    requests_per_s=None,
    ttft_p50_s=None,
    itl_p50_s=None,
    history={},
)
