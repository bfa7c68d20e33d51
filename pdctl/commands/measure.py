"""`pdctl measure`: run both arms on this machine and decide which wins."""

from pathlib import Path

import typer

from pdctl.commands.number_option import number_option
from pdctl.units import parse_duration_s, parse_rate_rps, parse_share, parse_tokens


def measure(
    model: str = typer.Argument(
        "", help="Model directory, cached model or bundled name.", show_default=False
    ),
    isl: float = number_option("--isl", parse_tokens, "Mean prompt tokens: 8000, 30K."),
    osl: float = number_option("--osl", parse_tokens, "Mean output tokens: 500, 1K."),
    isl_cv: float = typer.Option(
        None, help="Spread of prompts (std. deviation / mean). Default: 1.31."
    ),
    osl_cv: float = typer.Option(
        None, help="Spread of outputs; 0: all equally long. Default: 0.73."
    ),
    rate: float = number_option("--rate", parse_rate_rps, "Requests per second: 12, 300/min."),
    concurrency: int = typer.Option(
        None, help="Requests in flight at any time, instead of --rate."
    ),
    prefix_hit: float = number_option(
        "--prefix-hit", parse_share, "Share of prompt tokens found in the prefix cache: 0.9, 90%."
    ),
    trace: Path = typer.Option(
        None, help="Trace file. Requests go out at its times, or at --rate."
    ),
    time_unit: str = typer.Option(
        "", "--time-unit", help="Unit of times in the trace: s, ms, us, ns. Default: detected."
    ),
    duration: str = typer.Option("60s", help="Send requests for this long in each load."),
    total: int = typer.Option(2, help="Total engines of each arm."),
    prefill: int = typer.Option(None, help="Prefill engines of the split. Default: as planned."),
    repeats: int = typer.Option(1, help="Loads per arm; the arms take turns."),
    find_knee: bool = typer.Option(
        False, "--find-knee", help="Also find the highest rate at which each arm meets the SLOs."
    ),
    target: str = typer.Option("", help="Measure the router or engine at this URL; start nothing."),
    connections: str = typer.Option("new", help="new: a connection per request; kept: reuse them."),
    ttft: str = typer.Option("", help="SLO for the time to first token, for example 1s."),
    tpot: str = typer.Option("", help="SLO for the time per output token, for example 30ms."),
    attainment: float = number_option(
        "--attainment", parse_share, "Share of requests that must meet the SLOs.", default=0.9
    ),
    engine: str = typer.Option("sglang", "--engine", help="sglang, or sim for simulated engines."),
    gpus: str = typer.Option(
        "", help="GPUs of this machine to use: 0-3,6. With --engine sim, their kind: 8xH200."
    ),
    tp: int = typer.Option(None, help="Tensor parallelism of every engine."),
    pp: int = typer.Option(None, help="Pipeline stages of every engine."),
    dp: int = typer.Option(None, help="Attention data parallelism inside tp."),
    ep: int = typer.Option(None, help="Expert parallelism inside tp."),
    args: str = typer.Option("", "--args", help="SGLang flags for every engine."),
    prefill_args: str = typer.Option(
        "", "--prefill-args", help="SGLang flags for prefill engines."
    ),
    decode_args: str = typer.Option("", "--decode-args", help="SGLang flags for decode engines."),
    transfer_backend: str = typer.Option(
        "auto", "--transfer-backend", help="KV transfer backend: auto, mooncake, nixl, ..."
    ),
    python: str = typer.Option(None, "--python", help="Python interpreter that has SGLang."),
    profile: Path = typer.Option(None, help="Profile with step times for the prediction."),
    timeout: str = typer.Option(
        "2h", "--timeout", help="Wait at most this long until an arm serves."
    ),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="File with the engines' API key. Default: $PDCTL_API_KEY."
    ),
    seed: int = typer.Option(
        0, help="Random seed for arrivals and lengths; prompts are always new."
    ),
    output: Path = typer.Option(
        None, "-o", "--output", help="Append every load to this JSONL file."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask questions."),
) -> None:
    """Run colocated and split engines on the same requests; decide which wins, and how surely.

    \b
    Examples:
      pdctl measure /models/llama-8b --isl 8000 --osl 256 --rate 3 --total 2 --ttft 2s --tpot 30ms
      pdctl measure --target http://127.0.0.1:30000 --isl 1000 --osl 200 --rate 5
    """
    from pdctl.commands.measure_requests import MeasureOptions
    from pdctl.commands.measure_run import run_measure
    from pdctl.engines.clients.api_key import use_key_file

    use_key_file(api_key_file)
    options = MeasureOptions(
        model=model,
        lengths=(isl, osl),
        spreads=(isl_cv, osl_cv),
        rate_rps=rate,
        concurrency=concurrency,
        prefix_hit=prefix_hit,
        trace=trace,
        time_unit=time_unit,
        duration_s=parse_duration_s(duration, flag="--duration"),
        total=total,
        prefill=prefill,
        repeats=repeats,
        find_knee=find_knee,
        target=target,
        connections=connections,
        slo=(ttft, tpot, attainment),
        engine=engine,
        gpus=gpus,
        sizes=(tp, pp, dp, ep),
        args=(args, prefill_args, decode_args),
        transfer_backend=transfer_backend,
        python=python,
        profile=profile,
        timeout_s=parse_duration_s(timeout, flag="--timeout"),
        seed=seed,
        output=output,
        as_json=as_json,
        no_input=no_input or as_json,
    )
    run_measure(options)
