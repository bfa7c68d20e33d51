"""`pdctl rehearse`: play a plan on simulated engines behind the real router."""

from pathlib import Path

import typer

from pdctl.units import parse_duration_s, positive


def rehearse(
    model: str = typer.Argument("", help="Bundled name, model directory or cached model."),
    file: Path | None = typer.Option(None, "-f", "--file", help="Rehearse this pd.yaml."),
    prefill: int | None = typer.Option(None, "--prefill", help="Prefill engines; 0: colocated."),
    total: int | None = typer.Option(None, "--total", help="Total engines."),
    tp: int | None = typer.Option(None, "--tp", help="Tensor parallelism of every engine."),
    gpus: str = typer.Option(
        "", "--gpus", help="GPUs to simulate: 8xH100, 2x8xH200. Default: the planned ones."
    ),
    trace: Path | None = typer.Option(
        None, help="Trace of requests. Default: the planned requests."
    ),
    time_unit: str = typer.Option(
        "", "--time-unit", help="Unit of times in the trace: s, ms, us, ns. Default: detected."
    ),
    duration: str = typer.Option("40s", help="Play this much of the requests."),
    speed: float | None = typer.Option(
        None, help="Speed-up. Default: fast enough to end within 20 s."
    ),
    ttft: str = typer.Option("", help="SLO for the time to first token, for example 1s."),
    tpot: str = typer.Option("", help="SLO for the time per output token, for example 30ms."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object at the end."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask questions."),
) -> None:
    """Play a plan on simulated engines behind the real router. Needs no GPU and no download.

    Without MODEL, play ./pd.yaml or the last plan: its GPUs, requests and SLOs. With MODEL alone,
    plan it first, for 8 H200 and 40 s of a public trace unless flags say otherwise. At the end,
    compare predicted with observed figures.

    \b
    Examples:
      pdctl rehearse
      pdctl rehearse qwen3-32b --prefill 5 --total 8
      pdctl rehearse deepseek-r1 --gpus 4x8xH200 --trace requests.jsonl --speed 4
    """
    from pdctl.commands.rehearse_run import RehearseOptions, run_rehearsal
    from pdctl.workload.describe import parse_slo

    slo = parse_slo(ttft, tpot)
    options = RehearseOptions(
        model=model,
        file=file,
        prefill=prefill,
        total=total,
        tp=tp,
        gpus=gpus,
        trace=trace,
        time_unit=time_unit,
        no_input=no_input or as_json,
        duration_s=parse_duration_s(duration, flag="--duration"),
        speed=None if speed is None else positive(speed, flag="--speed"),
        ttft_s=slo.ttft_s,
        tpot_s=slo.tpot_s,
    )
    run_rehearsal(options, as_json=as_json)
