"""`pdctl up`: start a deployment and follow it until it stops."""

from pathlib import Path

import typer

from pdctl.units import parse_duration_s


def up(
    model: str | None = typer.Argument(
        None, help="Model directory, Hugging Face id, or bundled name."
    ),
    file: Path | None = typer.Option(
        None, "-f", "--file", help="Read the deployment from a pd.yaml or a Miles file."
    ),
    prefill: int | None = typer.Option(
        None, "--prefill", help="Prefill engines; 0: colocated. Default: a quarter of --total."
    ),
    total: int | None = typer.Option(None, "--total", help="Total engines."),
    engine: str | None = typer.Option(
        None, "--engine", help="sglang, or sim for simulated engines."
    ),
    detach: bool = typer.Option(False, "-d", "--detach", help="Return once the deployment serves."),
    name: str | None = typer.Option(
        None, "--name", help="Name of the deployment. Default: the model's name."
    ),
    gpus: str | None = typer.Option(
        None,
        "--gpus",
        help="GPUs of this machine to use: 0-3,6. With --engine sim or --dry-run, a kind: 8xH200.",
    ),
    tp: int | None = typer.Option(None, "--tp", help="Tensor parallelism of every engine."),
    pp: int | None = typer.Option(None, "--pp", help="Pipeline stages of every engine."),
    dp: int | None = typer.Option(None, "--dp", help="Attention data parallelism inside tp."),
    ep: int | None = typer.Option(None, "--ep", help="Expert parallelism inside tp."),
    prefill_tp: int | None = typer.Option(None, help="Tensor parallelism of prefill engines."),
    prefill_pp: int | None = typer.Option(None, help="Pipeline stages of prefill engines."),
    prefill_dp: int | None = typer.Option(
        None, help="Attention data parallelism of prefill engines."
    ),
    prefill_ep: int | None = typer.Option(None, help="Expert parallelism of prefill engines."),
    decode_tp: int | None = typer.Option(None, help="Tensor parallelism of decode engines."),
    decode_pp: int | None = typer.Option(None, help="Pipeline stages of decode engines."),
    decode_dp: int | None = typer.Option(
        None, help="Attention data parallelism of decode engines."
    ),
    decode_ep: int | None = typer.Option(None, help="Expert parallelism of decode engines."),
    args: str | None = typer.Option(None, "--args", help="SGLang flags for every engine."),
    prefill_args: str | None = typer.Option(
        None, "--prefill-args", help="SGLang flags for prefill engines."
    ),
    decode_args: str | None = typer.Option(
        None, "--decode-args", help="SGLang flags for decode engines."
    ),
    place: str | None = typer.Option(
        None,
        "--place",
        help="Engines on nodes: spread, pack (few nodes), or domain (one NVLink domain).",
    ),
    router_args: str | None = typer.Option(None, "--router-args", help="Flags for the router."),
    host: str | None = typer.Option(None, "--host", help="Address on which the router listens."),
    port: int | None = typer.Option(None, "--port", help="Port of the router. Default: 30000."),
    policy: str | None = typer.Option(
        None, "--policy", help="How the router picks engines: cache_aware, round_robin, ..."
    ),
    transfer_backend: str | None = typer.Option(
        None, "--transfer-backend", help="KV transfer backend: auto, mooncake, nixl, ..."
    ),
    python: str | None = typer.Option(None, "--python", help="Python interpreter that has SGLang."),
    trust_remote_code: bool = typer.Option(
        False, "--trust-remote-code", help="Pass --trust-remote-code to SGLang."
    ),
    no_request_times: bool = typer.Option(
        False,
        "--no-request-times",
        help="Keep engines from logging a line per request; explain needs those lines.",
    ),
    api_key_file: Path | None = typer.Option(
        None,
        "--api-key-file",
        help="File with the API key that clients must send. Default: $PDCTL_API_KEY.",
    ),
    sim_speed: float | None = typer.Option(
        None, "--sim-speed", help="Speed of simulated engines; 10: ten times real time."
    ),
    ttft: str | None = typer.Option(
        None, "--ttft", help="SLO for the time to first token, which status and autopilot use: 1s."
    ),
    tpot: str | None = typer.Option(
        None, "--tpot", help="SLO for the time per output token: 30ms."
    ),
    metrics_endpoint: str | None = typer.Option(
        None, "--metrics-endpoint", help="Serve pdctl's own metrics here: 127.0.0.1:9464."
    ),
    otlp: str | None = typer.Option(
        None, "--otlp", help="Send traces of requests to this OTLP collector: 127.0.0.1:4317."
    ),
    no_what_if: bool = typer.Option(
        False,
        "--no-what-if",
        help="Do not replay the latest requests on other layouts while it serves.",
    ),
    timeout: str = typer.Option(
        "2h", "--timeout", help="Wait at most this long until the deployment serves."
    ),
    on: str = typer.Option(
        "auto",
        "--on",
        help="Where to run: local, slurm (this job, else a new one), or ray (this cluster).",
    ),
    resume: bool = typer.Option(
        False, "--resume", help="Start a new supervisor for a deployment whose supervisor died."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the commands; start nothing."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write the deployment to this file; start nothing."
    ),
    force: bool = typer.Option(False, "--force", help="With -o: replace a file that exists."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask questions."),
    as_json: bool = typer.Option(
        False, "--json", help="Print one JSON object once the deployment serves."
    ),
) -> None:
    """Start prefill and decode engines behind the router, and stay until Ctrl-C.

    Without MODEL or -f, start ./pd.yaml, or else the last plan.

    \b
    Examples:
      pdctl up qwen3-8b --prefill 2 --total 8 --engine sim
      pdctl up /models/llama-8b --prefill 1 --total 4 --tp 2 -d --name chat
      pdctl up -f pd.yaml --on slurm
      pdctl up Qwen/Qwen3-32B --prefill 2 --total 4 --tp 2 --dry-run --gpus 8xH200
    """
    given = dict(locals())
    from pdctl.engines.clients.api_key import use_key_file
    from pdctl.engines.lifecycle import running

    use_key_file(api_key_file)
    timeout_s = parse_duration_s(timeout, flag="--timeout")
    # it starts while this command still imports
    supervisor = running.resume(running.chosen_name(name)) if resume else None
    from pdctl.commands import up_preview, up_run
    from pdctl.commands.deployment_options import DeploymentOptions, build_deployment
    from pdctl.commands.options.parameters import options_from

    options = up_preview.UpOptions(
        is_detached=detach, as_json=as_json, timeout_s=timeout_s, no_input=no_input
    )
    if supervisor is not None:
        up_run.follow_resumed(options, supervisor)
        return
    deployment = build_deployment(options_from(DeploymentOptions, given))
    if output is not None:
        up_preview.write_file(options, deployment, output, force=force)
    elif dry_run:
        up_preview.show_commands(options, deployment, on)
    else:
        up_run.start_or_submit(options, deployment, on, may_simulate=engine is None)
