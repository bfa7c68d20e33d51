"""`pdctl rehearse`: play a plan on simulated engines behind the real router."""

from pathlib import Path

import typer


def rehearse(
    model: str = typer.Argument("", help="Bundled name, directory or cached model."),
    file: Path | None = typer.Option(None, "-f", "--file", help="The pd.yaml to rehearse."),
    prefill: int | None = typer.Option(None, "--prefill", help="Prefill engines; 0: colocated."),
    total: int | None = typer.Option(None, "--total", help="Engines in all."),
    tp: int | None = typer.Option(None, "--tp", help="Tensor parallel size of every engine."),
    gpus: str = typer.Option("8xH200", "--gpus", help="The GPUs to simulate: 8xH100, 2x8xH200."),
    trace: Path | None = typer.Option(None, help="Your requests; usual: 40 s of a public trace."),
    duration: str = typer.Option("40s", help="How much of the trace to play."),
    speed: float | None = typer.Option(None, help="Times as fast; usual: done within 20 s."),
    ttft: str = typer.Option("", help="SLO of the time to first token: 1s."),
    tpot: str = typer.Option("", help="SLO of the time per output token: 30ms."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object at the end."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask."),
) -> None:
    """Play requests on simulated engines behind the real router: no GPU, no download.

    Without --prefill, --total or -f the layout is what `pdctl plan` chooses for MODEL; without
    MODEL either, ./pd.yaml or the last plan, else a default. Ends with predicted against observed.

    \b
    Examples:
      pdctl rehearse qwen3-32b --prefill 5 --total 8
      pdctl rehearse deepseek-r1 --gpus 4x8xH200 --trace requests.jsonl --speed 4
    """
    from pdctl.commands.rehearse_run import Wish, run
    from pdctl.units import parse_duration_s, positive

    wish = Wish(
        model=model,
        file=file,
        prefill=prefill,
        total=total,
        tp=tp,
        gpus=gpus,
        trace=trace,
        duration_s=parse_duration_s(duration, flag="--duration"),
        speed=None if speed is None else positive(speed, flag="--speed"),
        ttft_s=parse_duration_s(ttft, flag="--ttft") if ttft else None,
        tpot_s=parse_duration_s(tpot, flag="--tpot") if tpot else None,
    )
    run(wish, as_json=as_json)
