"""`pdctl calibrate`: measure step times of an engine, so that `plan` is about this machine."""

from pathlib import Path

import typer

EXAMPLES = """\b
Examples:
  pdctl calibrate /models/llama-8b --tp 2
  pdctl calibrate /models/llama-8b --from http://127.0.0.1:30000
"""


def calibrate(
    model: str = typer.Argument(
        "", help="Directory with config.json, cached model or bundled name.", show_default=False
    ),
    tp: int = typer.Option(1, "--tp", help="Tensor parallel size of the engine."),
    pp: int = typer.Option(None, "--pp", help="Pipeline parallel size."),
    dp: int = typer.Option(None, "--dp", help="Attention data parallel size, inside tp."),
    ep: int = typer.Option(None, "--ep", help="Expert parallel size, inside tp."),
    engine: str = typer.Option("sglang", "--engine", help="sglang, or sim to try it out."),
    url: list[str] = typer.Option(
        [], "--url", help="Of a running idle engine; twice for prefill and decode."
    ),
    transfer: bool = typer.Option(
        False, "--transfer", help="Start a prefill and a decode engine; measure KV transfer too."
    ),
    gpus: str = typer.Option(
        "", "--gpus", help="Which GPUs here: 0-3,6. With --engine sim or --url: which kind, 8xH200."
    ),
    args: str = typer.Option("", "--args", help="SGLang flags for the engine."),
    decode_args: str = typer.Option("", "--decode-args", help="With --transfer: for decode."),
    transfer_backend: str = typer.Option("auto", "--transfer-backend", help="How KV moves."),
    python: str = typer.Option(None, "--python", help="The Python that has SGLang."),
    sim_speed: float = typer.Option(
        1.0, "--sim-speed", help="Simulated: 10 runs ten times faster."
    ),
    budget: str = typer.Option("4min", "--budget", help="How long to measure at most."),
    from_url: list[str] = typer.Option(
        [], "--from", help="Only watch this engine, or deployment, at work; repeat for more."
    ),
    window: str = typer.Option("1min", "--window", help="How long to watch with --from."),
    from_logs: list[Path] = typer.Option(
        [], "--from-logs", help="Read engine logs of a running deployment; repeat for more."
    ),
    output: Path = typer.Option(None, "-o", "--output", help="Write the profile to this file."),
    earlier: str = typer.Option(
        "", "--with", help="Fit together with this profile of the same kind of engine."
    ),
    steps: Path = typer.Option(
        None, "--steps", help="Append every measured step to this JSONL, also of a refused profile."
    ),
    timeout: str = typer.Option("2h", "--timeout", help="How long to wait until it serves."),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="Holds the engines' API key; else PDCTL_API_KEY."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask."),
) -> None:
    """Measure the step times of one engine in minutes; `plan` then uses them."""
    from pdctl.commands.calibrate_run import run
    from pdctl.commands.calibrate_wish import Wish
    from pdctl.engines.api_key import use_key_file
    from pdctl.units import parse_duration_s

    use_key_file(api_key_file)
    wish = Wish(
        model=model,
        sizes=(tp, pp or 1, dp or 1, ep or 1),
        engine=engine,
        urls=tuple(url),
        transfer=transfer,
        gpus=gpus,
        args=args,
        decode_args=decode_args,
        transfer_backend=transfer_backend,
        python=python,
        sim_speed=sim_speed,
        budget_s=parse_duration_s(budget, flag="--budget"),
        from_urls=tuple(from_url),
        window_s=parse_duration_s(window, flag="--window"),
        from_logs=tuple(from_logs),
        output=output,
        earlier=earlier,
        steps=steps,
        timeout_s=parse_duration_s(timeout, flag="--timeout"),
        no_input=no_input or as_json,
    )
    run(wish, as_json=as_json)


calibrate.__doc__ = f"{calibrate.__doc__}\n\n{EXAMPLES}"
