"""`pdctl plan`: should prefill and decode be split, into how many engines, and why?"""

from pathlib import Path

import typer

from pdctl.commands.number_option import number_option
from pdctl.units import parse_rate_rps, parse_share, parse_tokens

EXAMPLES = """\b
Examples:
  pdctl plan deepseek-r1 --gpus 4x8xH200 --isl 8000 --osl 500 --rate 10
  pdctl plan qwen3-32b --gpus 2x8xH200 --tp 2 --trace requests.jsonl --ttft 5s --tpot 40ms
  pdctl plan qwen3-8b --gpus 8xH100@2.50 --isl 4000 --osl 300 --rate 5 --ttft 1s --fewest
  pdctl plan qwen3-32b --on slurm --isl 8000 --osl 500 --rate 10
  pdctl plan qwen3-next-80b-a3b --show-model
  pdctl plan qwen3-32b --from http://127.0.0.1:30000 --window 1m
"""


def plan(
    model: str = typer.Argument(
        "",
        help="Directory with config.json, cached model or bundled name. Default: that of --from, "
        "else of the last plan, with its GPUs.",
        show_default=False,
    ),
    gpus: str = typer.Option(
        "", help="8xH100; nodes of 8: 4x8xH200. Append :rdma400 (Gbit/s a GPU), @2.50 ($/h)."
    ),
    on: str = typer.Option(
        "local", "--on", help="Plan for the free GPUs of: local (here), slurm or ray."
    ),
    gpu_file: Path = typer.Option(
        None, "--gpu-file", help="YAML file that describes a GPU that pdctl does not know."
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
    concurrency: float = typer.Option(None, help="Closed-loop clients, instead of --rate."),
    prefix_hit: float = number_option(
        "--prefix-hit", parse_share, "Share of prompt tokens found in the prefix cache: 0.9, 90%."
    ),
    trace: Path = typer.Option(None, help="Trace file: Mooncake, Azure, BurstGPT, ... "),
    lengths: Path = typer.Option(None, help="File of prompt and output lengths."),
    from_url: str = typer.Option(
        "", "--from", help="A running deployment, or the URL of its router."
    ),
    window: str = typer.Option(
        "30s", "--window", help="With --from: how long to watch, or how far to look back."
    ),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Skip broken lines, and count them."),
    time_unit: str = typer.Option(
        "", "--time-unit", help="Unit of times in the trace: s, ms, us, ns. Default: detected."
    ),
    ttft: str = typer.Option("", help="SLO for the time to first token: 1s."),
    tpot: str = typer.Option("", help="SLO for the time per output token: 30ms."),
    attainment: float = number_option(
        "--attainment", parse_share, "Share of requests that must meet the SLOs.", default=0.9
    ),
    fewest: bool = typer.Option(
        False, "--fewest", help="Use as few GPUs as meet the SLOs at the rate."
    ),
    total: int = typer.Option(None, help="Total engines."),
    tp: int = typer.Option(None, help="Tensor parallelism of every engine."),
    pp: int = typer.Option(None, help="Pipeline stages of every engine."),
    dp: int = typer.Option(None, help="Attention data parallelism inside tp."),
    ep: int = typer.Option(None, help="Expert parallelism inside tp."),
    prefill_tp: int = typer.Option(None, help="Tensor parallelism of prefill engines."),
    prefill_pp: int = typer.Option(None, help="Pipeline stages of prefill engines."),
    prefill_dp: int = typer.Option(None, help="Attention data parallelism of prefill engines."),
    prefill_ep: int = typer.Option(None, help="Expert parallelism of prefill engines."),
    decode_tp: int = typer.Option(None, help="Tensor parallelism of decode engines."),
    decode_pp: int = typer.Option(None, help="Pipeline stages of decode engines."),
    decode_dp: int = typer.Option(None, help="Attention data parallelism of decode engines."),
    decode_ep: int = typer.Option(None, help="Expert parallelism of decode engines."),
    args: str = typer.Option("", "--args", help="SGLang flags for every engine, as for up."),
    prefill_args: str = typer.Option(None, help="SGLang flags for prefill engines."),
    decode_args: str = typer.Option(None, help="SGLang flags for decode engines."),
    chunked_prefill_size: int = typer.Option(None, help="Tokens of one prefill step."),
    mem_fraction_static: float = typer.Option(None, help="Memory share for weights and KV."),
    kv_cache_dtype: str = typer.Option("", help="Format of the KV cache: fp8_e4m3, bf16."),
    quantization: str = typer.Option("", help="Format of the weights: fp8, if not the model's."),
    page_size: int = typer.Option(None, help="Tokens of one page of the KV cache."),
    mamba_full_memory_ratio: float = typer.Option(
        None, help="Memory for states over memory for KV."
    ),
    mamba_radix_cache_strategy: str = typer.Option(
        "", help="States kept for the prefix cache: extra_buffer, no_buffer."
    ),
    scheduler_recv_interval: int = typer.Option(
        None, help="Decode steps between two checks for new requests."
    ),
    release: str = typer.Option("", help="Release of SGLang: 0.5.9. Default: the newest known."),
    policy: str = typer.Option(
        None, help="How the router picks engines: cache_aware, round_robin, ..."
    ),
    spec_draft_tokens: int = typer.Option(None, help="Draft tokens per speculative step."),
    spec_accept_length: float = typer.Option(None, help="Tokens gained per speculative step."),
    profile: str = typer.Option("", help="Measured step times to use: a file or an id."),
    attention_backend: str = typer.Option("", help="Attention backend. Default: SGLang's."),
    seed: int = typer.Option(0, help="Random seed for generated arrivals and lengths."),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="File with the API key for --from. Default: $PDCTL_API_KEY."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
    output_file: Path = typer.Option(
        None, "-o", "--output", help="Write the plan to this file, for `up -f`."
    ),
    report: Path = typer.Option(None, help="Write a self-contained HTML page to this file."),
    show_model: bool = typer.Option(
        False, "--show-model", help="Show the layers and sizes of MODEL; no plan."
    ),
    models: bool = typer.Option(False, "--models", help="List the bundled models; no plan."),
    force: bool = typer.Option(False, "--force", help="With -o: replace a file that exists."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask questions."),
) -> None:
    """Should prefill and decode be split, into how many engines, and why?"""
    given = dict(locals())
    from pdctl.commands.command_line.overwrite import check_output
    from pdctl.commands.options.plan_options import given_options
    from pdctl.commands.plan_run import PlanOutput, run_models, run_plan, run_show_model
    from pdctl.engines.clients.api_key import use_key_file

    if models:
        run_models(as_json=as_json)
        return
    use_key_file(api_key_file)
    check_output(output_file, force=force, no_input=no_input or as_json)
    options = given_options(given)
    if show_model:
        run_show_model(options, as_json=as_json)
        return
    output = PlanOutput(as_json=as_json, file=output_file, report=report)
    run_plan(options, output)


plan.__doc__ = f"{plan.__doc__}\n\n{EXAMPLES}"
