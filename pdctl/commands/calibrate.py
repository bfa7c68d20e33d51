"""`pdctl calibrate`: measure an engine's step times, so that `plan` knows this machine."""

from pathlib import Path

import typer

from pdctl.units import parse_duration_s


def calibrate(
    model: str = typer.Argument(
        "", help="Model directory, cached model or bundled name.", show_default=False
    ),
    tp: int = typer.Option(1, "--tp", help="Tensor parallelism of the engine."),
    pp: int = typer.Option(None, "--pp", help="Pipeline stages of the engine."),
    dp: int = typer.Option(None, "--dp", help="Attention data parallelism inside tp."),
    ep: int = typer.Option(None, "--ep", help="Expert parallelism inside tp."),
    engine: str = typer.Option("sglang", "--engine", help="sglang, or sim for simulated engines."),
    url: list[str] = typer.Option(
        [], "--url", help="URL of a running, idle engine. Repeat for prefill and decode."
    ),
    transfer: bool = typer.Option(
        False, "--transfer", help="Start a prefill and a decode engine; measure KV transfer too."
    ),
    gpus: str = typer.Option(
        "",
        "--gpus",
        help="GPUs of this machine to use: 0-3,6. With --engine sim or --url, their kind: 8xH200.",
    ),
    args: str = typer.Option("", "--args", help="SGLang flags for the engine."),
    decode_args: str = typer.Option(
        "", "--decode-args", help="With --transfer: flags for the decode engine."
    ),
    transfer_backend: str = typer.Option(
        "auto", "--transfer-backend", help="KV transfer backend: auto, mooncake, nixl, ..."
    ),
    python: str = typer.Option(None, "--python", help="Python interpreter that has SGLang."),
    sim_speed: float = typer.Option(
        1.0, "--sim-speed", help="Speed of simulated engines; 10: ten times real time."
    ),
    budget: str = typer.Option("4min", "--budget", help="Measure for at most this long."),
    from_url: list[str] = typer.Option(
        [],
        "--from",
        help="Watch the engine or router at this URL without sending requests. Repeatable.",
    ),
    window: str = typer.Option("1min", "--window", help="With --from: watch for this long."),
    from_logs: list[Path] = typer.Option(
        [], "--from-logs", help="Read this engine log instead of measuring. Repeatable."
    ),
    output: Path = typer.Option(None, "-o", "--output", help="Write the profile to this file."),
    earlier: str = typer.Option(
        "", "--with", help="Fit together with this profile of the same kind of engine."
    ),
    steps: Path = typer.Option(
        None,
        "--steps",
        help="Append every measured step to this JSONL file, even if the profile is refused.",
    ),
    timeout: str = typer.Option(
        "2h", "--timeout", help="Wait at most this long until the engine serves."
    ),
    api_key_file: Path | None = typer.Option(
        None,
        "--api-key-file",
        help="File with the engines' API key. Default: $PDCTL_API_KEY.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask questions."),
) -> None:
    """Measure the step times of one engine in minutes; `plan` then uses them.

    \b
    Examples:
      pdctl calibrate /models/llama-8b --tp 2
      pdctl calibrate /models/llama-8b --from http://127.0.0.1:30000
    """
    from pdctl.commands.calibrate_run import CalibrateOptions, run_calibrate
    from pdctl.engines.clients.api_key import use_key_file

    use_key_file(api_key_file)
    options = CalibrateOptions(
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
    run_calibrate(options, as_json=as_json)
