"""Command line of a simulated engine: its own flags, and the SGLang flags that affect it."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from pdctl.deployment.records import MODES, role_of_mode
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Role

# flags with a value that serving_of() of deployment/serving.py reads from argv
READ_BY_SERVING = (
    "attention-backend",
    "chunked-prefill-size",
    "context-length",
    "kv-cache-dtype",
    "load-balance-method",
    "mamba-full-memory-ratio",
    "mamba-radix-cache-strategy",
    "max-running-requests",
    "mem-fraction-static",
    "moe-a2a-backend",
    "num-reserved-decode-tokens",
    "page-size",
    "quantization",
    "scheduler-recv-interval",
    "sim-accept-length",
    "speculative-num-draft-tokens",
)


@dataclass(frozen=True)
class SimFlags:
    """The command line of one engine, without what deployment/serving.py reads in `argv`."""

    model: str
    served_name: str
    gpus: str
    gpu_file: str
    profile: str
    speed: float
    start_s: float
    role: Role
    host: str
    port: int
    bootstrap_port: int
    tp: int
    pp: int
    dp: int
    ep: int
    max_total_tokens: int | None
    overlap: bool
    metrics: bool
    request_times: bool
    role_switch: bool
    incremental: bool
    noise: float
    ignored: tuple[str, ...]
    argv: tuple[str, ...]
    node_rank: int = 0


def parse_flags(argv: Sequence[str]) -> SimFlags:
    """Parse a command line. Ignores SGLang flags that have no effect here.

    Raises InvalidInput for an impossible speed, start time or noise.
    """
    args, ignored = _parser().parse_known_args(list(argv))
    if not args.sim_speed > 0:
        raise InvalidInput(f"--sim-speed must be above zero, not {args.sim_speed:g}.")
    if not args.sim_start_s >= 0:
        raise InvalidInput(f"--sim-start-s must not be negative, not {args.sim_start_s:g}.")
    if not 0 <= args.sim_noise < 1:
        raise InvalidInput(f"--sim-noise must be from 0 to 1, not {args.sim_noise:g}.")
    return SimFlags(
        model=args.model_path,
        served_name=args.served_model_name or args.model_path,
        gpus=args.sim_gpus,
        gpu_file=args.sim_gpu_file,
        profile=args.sim_profile,
        speed=args.sim_speed,
        start_s=args.sim_start_s,
        role=role_of_mode(args.disaggregation_mode) or "colocated",
        host=args.host,
        port=args.port,
        bootstrap_port=args.disaggregation_bootstrap_port,
        tp=args.tp_size,
        pp=args.pp_size,
        dp=max(args.dp_size, args.attn_dp_size),
        ep=args.ep_size,
        max_total_tokens=args.max_total_tokens,
        overlap=not args.disable_overlap_schedule,
        metrics=args.enable_metrics,
        request_times=args.enable_request_time_stats_logging,
        role_switch=args.enable_pd_role_switch,
        incremental=args.incremental_streaming_output,
        noise=args.sim_noise,
        ignored=tuple(ignored),
        argv=tuple(argv),
        node_rank=args.node_rank,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pdctl.engines.sim", allow_abbrev=False)
    add = parser.add_argument
    add("--sim-gpus", default="1xH200", help="GPUs to simulate, for example 8xH200")
    add("--sim-gpu-file", default="", help="a file that describes their kind")
    add("--sim-profile", default="", help="measured step times to use; none: the roofline")
    add("--sim-speed", type=float, default=1.0, help="10: run ten times as fast")
    add("--sim-start-s", type=float, default=0.0, help="duration of the simulated start, in s")
    add("--sim-noise", type=float, default=0.0, help="0.03: vary step times by 3 %%")
    add("--model-path", "--model", required=True)
    add("--served-model-name")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=30000)
    add("--disaggregation-mode", choices=sorted(MODES.values()), default="null")
    add("--disaggregation-bootstrap-port", type=int, default=8998)
    for names in (
        ("--tp-size", "--tensor-parallel-size", "--tp"),
        ("--pp-size", "--pipeline-parallel-size", "--pp"),
        ("--dp-size", "--data-parallel-size", "--dp"),
        ("--attn-dp-size",),
        ("--ep-size", "--expert-parallel-size", "--ep"),
    ):
        add(*names, type=int, default=1)
    add("--max-total-tokens", type=int)
    add("--nnodes", type=int, default=1)
    add("--node-rank", type=int, default=0)
    for name in READ_BY_SERVING:
        add(f"--{name}")
    for name in (
        "disable-radix-cache",
        "disable-overlap-schedule",
        "enable-mixed-chunk",
        "enable-metrics",
        "enable-pd-role-switch",
        "enable-request-time-stats-logging",
        "incremental-streaming-output",
    ):
        add(f"--{name}", action="store_true")
    return parser
