"""The deployment that an arm of a verdict describes."""

from dataclasses import replace

from pdctl.deployment.choose import deployment_of
from pdctl.deployment.records import Deployment
from pdctl.perf_model.records import Parallelism
from pdctl.verdict.records import Arm
from pdctl.workload.records import Slo


def deployment_of_arm(
    model: str, arm: Arm, slo: Slo, *, attention_backend: str | None = None
) -> Deployment:
    """What to launch for an arm, with what was predicted of it.

    attention_backend: the one planned for; None: whichever SGLang takes.

    Raises InvalidInput where the arm cannot be launched, as `deployment_of`.
    """
    prefill, decode = arm.num_engines
    together = arm.parallelism.get("colocated")
    deployment = deployment_of(
        model=model,
        total=prefill + decode,
        prefill=0 if together else prefill,
        parallelism=together or Parallelism(),
        prefill_parallelism=arm.parallelism.get("prefill"),
        decode_parallelism=arm.parallelism.get("decode"),
        args=backend_args(attention_backend),
    )
    return replace(
        deployment, ttft_slo_s=slo.ttft_s, tpot_slo_s=slo.tpot_s, predicted=_predicted(arm)
    )


def backend_args(attention_backend: str | None) -> tuple[str, ...]:
    """SGLang's flags for an attention backend; none for None."""
    return ("--attention-backend", attention_backend) if attention_backend else ()


def _predicted(arm: Arm) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, times in (("ttft", arm.ttft_s), ("tpot", arm.tpot_s)):
        if times is not None:
            found |= {f"{name}_{q}_s": getattr(times, q) for q in ("p50", "p90", "p99")}
    if arm.knee_rps is not None:
        found["goodput_rps"] = arm.knee_rps
    return found
