"""`pdctl measure`: run both arms on this machine and say which one wins."""

from pathlib import Path

import typer

from pdctl.commands.number_option import number_option
from pdctl.units import parse_rate_rps, parse_share, parse_tokens

EXAMPLES = """\b
Examples:
  pdctl measure /models/llama-8b --isl 8000 --osl 256 --rate 3 --total 2 --ttft 2s --tpot 30ms
  pdctl measure --target http://127.0.0.1:30000 --isl 1000 --osl 200 --rate 5
"""


def measure(
    model: str = typer.Argument(
        "", help="Directory with config.json, cached model or bundled name.", show_default=False
    ),
    isl: float = number_option("--isl", parse_tokens, "Mean prompt tokens: 8000, 30K."),
    osl: float = number_option("--osl", parse_tokens, "Mean output tokens."),
    isl_cv: float = typer.Option(None, help="Spread of prompt lengths: deviation over mean."),
    osl_cv: float = typer.Option(None, help="Spread of output lengths; 0 for equal ones."),
    rate: float = number_option("--rate", parse_rate_rps, "Requests per second: 12, 300/min."),
    concurrency: int = typer.Option(None, help="Requests in flight, instead of --rate."),
    prefix_hit: float = number_option(
        "--prefix-hit", parse_share, "Share of prompt tokens cached: 0.9, 90%."
    ),
    trace: Path = typer.Option(None, help="Trace file, played at its own times or at --rate."),
    time_unit: str = typer.Option(
        "", "--time-unit", help="Unit of the trace's times: s, ms, us, ns. Default: found."
    ),
    duration: str = typer.Option("60s", help="How long requests are sent, each time."),
    total: int = typer.Option(2, help="Engines in all; both arms get as many."),
    prefill: int = typer.Option(None, help="Prefill engines of the split. Usual: what plan says."),
    repeats: int = typer.Option(1, help="How often each arm runs, taking turns."),
    find_knee: bool = typer.Option(
        False, "--find-knee", help="Also search the highest rate each arm sustains at the SLOs."
    ),
    target: str = typer.Option("", help="Measure what runs at this address, start nothing."),
    connections: str = typer.Option("new", help="new: one per request; kept: reused."),
    ttft: str = typer.Option("", help="SLO of the time to first token: 1s."),
    tpot: str = typer.Option("", help="SLO of the time per output token: 30ms."),
    attainment: float = number_option(
        "--attainment", parse_share, "Share of requests that must meet the SLOs.", default=0.9
    ),
    engine: str = typer.Option("sglang", "--engine", help="sglang, or sim to rehearse."),
    gpus: str = typer.Option(
        "", help="Which GPUs here: 0-3,6. With --engine sim: which kind, 8xH200."
    ),
    tp: int = typer.Option(None, help="Tensor parallelism of every engine."),
    pp: int = typer.Option(None, help="Pipeline stages of every engine."),
    dp: int = typer.Option(None, help="Attention data parallelism inside tp."),
    ep: int = typer.Option(None, help="Expert parallelism inside tp."),
    args: str = typer.Option("", "--args", help="SGLang flags for every engine."),
    prefill_args: str = typer.Option("", "--prefill-args", help="For prefill engines."),
    decode_args: str = typer.Option("", "--decode-args", help="For decode engines."),
    transfer_backend: str = typer.Option("auto", "--transfer-backend", help="How KV moves."),
    python: str = typer.Option(None, "--python", help="The Python that has SGLang."),
    profile: Path = typer.Option(None, help="Measured step times to predict with."),
    timeout: str = typer.Option("2h", "--timeout", help="How long to wait until an arm serves."),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="Holds the engines' API key; else PDCTL_API_KEY."
    ),
    seed: int = typer.Option(0, help="Of arrivals and lengths; prompts are always new."),
    output: Path = typer.Option(None, "-o", "--output", help="Append every load to this JSONL."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask."),
) -> None:
    """Run colocated and split engines on the same requests, and say which wins and how surely."""
    from pdctl.commands.measure_requests import MeasureOptions
    from pdctl.commands.measure_run import run_measure
    from pdctl.engines.clients.api_key import use_key_file
    from pdctl.units import parse_duration_s

    use_key_file(api_key_file)
    wish = MeasureOptions(
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
    run_measure(wish)


measure.__doc__ = f"{measure.__doc__}\n\n{EXAMPLES}"
