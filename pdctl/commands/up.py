"""`pdctl up`: start a deployment and watch it until it serves."""

from pathlib import Path

import typer


def up(
    model: str | None = typer.Argument(
        None, help="Directory with config.json, Hugging Face id, or bundled name."
    ),
    file: Path | None = typer.Option(None, "-f", "--file", help="A pd.yaml, or a Miles file."),
    prefill: int | None = typer.Option(
        None, "--prefill", help="Prefill engines; 0: colocated. Usual: a quarter of --total."
    ),
    total: int | None = typer.Option(None, "--total", help="Engines in all."),
    engine: str | None = typer.Option(None, "--engine", help="sglang, or sim to rehearse."),
    detach: bool = typer.Option(False, "-d", "--detach", help="Return when it serves."),
    name: str | None = typer.Option(None, "--name", help="Of the deployment. Usual: the model's."),
    gpus: str | None = typer.Option(
        None, "--gpus", help="Which GPUs here: 0-3,6. With --engine sim: which kind, 8xH200."
    ),
    tp: int | None = typer.Option(None, "--tp", help="Tensor parallel size of every engine."),
    prefill_tp: int | None = typer.Option(None, "--prefill-tp", help="The same, prefill only."),
    decode_tp: int | None = typer.Option(None, "--decode-tp", help="The same, decode only."),
    pp: int | None = typer.Option(None, "--pp", help="Pipeline parallel size."),
    dp: int | None = typer.Option(None, "--dp", help="Attention data parallel size, inside tp."),
    ep: int | None = typer.Option(None, "--ep", help="Expert parallel size, inside tp."),
    args: str | None = typer.Option(None, "--args", help="SGLang flags for every engine."),
    prefill_args: str | None = typer.Option(None, "--prefill-args", help="For prefill engines."),
    decode_args: str | None = typer.Option(None, "--decode-args", help="For decode engines."),
    router_args: str | None = typer.Option(None, "--router-args", help="For the router."),
    host: str | None = typer.Option(None, "--host", help="Where the router listens."),
    port: int | None = typer.Option(None, "--port", help="The router's port. Usual: 30000."),
    policy: str | None = typer.Option(None, "--policy", help="How the router picks engines."),
    transfer_backend: str | None = typer.Option(
        None, "--transfer-backend", help="How KV moves: auto, mooncake, nixl, ..."
    ),
    python: str | None = typer.Option(None, "--python", help="The Python that has SGLang."),
    trust_remote_code: bool = typer.Option(False, "--trust-remote-code", help="As in SGLang."),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="Clients must know the key in it; else PDCTL_API_KEY."
    ),
    sim_speed: float | None = typer.Option(
        None, "--sim-speed", help="Simulated engines: 10 runs ten times as fast."
    ),
    timeout: str = typer.Option("2h", "--timeout", help="How long to wait until it serves."),
    resume: bool = typer.Option(
        False, "--resume", help="Take over a running deployment whose supervisor died."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the commands, start nothing."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write pd.yaml, start nothing."
    ),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object when it serves."),
) -> None:
    """Start prefill and decode engines behind the router, and stay until Ctrl-C.

    Without MODEL or -f: ./pd.yaml, else the last plan.

    \b
    Examples:
      pdctl up qwen3-8b --prefill 2 --total 8 --engine sim
      pdctl up /models/llama-8b --prefill 1 --total 4 --tp 2 -d --name chat
    """
    from pdctl.commands import up_run
    from pdctl.commands.chosen import Options, choose
    from pdctl.engines.api_key import use_key_file
    from pdctl.units import parse_duration_s

    use_key_file(api_key_file)
    timeout_s = parse_duration_s(timeout, flag="--timeout")
    run = up_run.Run(is_detached=detach, as_json=as_json, timeout_s=timeout_s, no_input=no_input)
    if resume:
        run.resume(name)
        return
    options = Options(
        model=model,
        file=file,
        name=name,
        prefill=prefill,
        total=total,
        engine=engine,
        gpus=gpus,
        tp=tp,
        prefill_tp=prefill_tp,
        decode_tp=decode_tp,
        pp=pp,
        dp=dp,
        ep=ep,
        args=args,
        prefill_args=prefill_args,
        decode_args=decode_args,
        router_args=router_args,
        host=host,
        port=port,
        policy=policy,
        transfer_backend=transfer_backend,
        python=python,
        trust_remote_code=trust_remote_code,
        sim_speed=sim_speed,
        no_input=no_input,
    )
    deployment = choose(options)
    if output is not None:
        run.write(deployment, output)
    elif dry_run:
        run.show_commands(deployment)
    else:
        run.start(deployment, may_simulate=engine is None)
