"""`pdctl plan`: should prefill and decode be split, into how many engines, and why?"""

from pathlib import Path

import typer

EXAMPLES = """\b
Examples:
  pdctl plan deepseek-r1 --gpus 4x8xH200 --isl 8000 --osl 500 --rate 10
  pdctl plan qwen3-32b --gpus 2x8xH200 --tp 2 --trace requests.jsonl --ttft 5s --tpot 40ms
  pdctl plan qwen3-32b --from http://127.0.0.1:30000 --window 1m
"""


def plan(
    model: str = typer.Argument(
        "", help="Directory with config.json, cached model or bundled name.", show_default=False
    ),
    gpus: str = typer.Option("", help="8xH100, 4x8xH200 (nodes × GPUs × type), :rdma400."),
    isl: float = typer.Option(None, help="Mean prompt tokens."),
    osl: float = typer.Option(None, help="Mean output tokens."),
    rate: float = typer.Option(None, help="Requests per second."),
    concurrency: float = typer.Option(None, help="Requests in flight, instead of --rate."),
    prefix_hit: float = typer.Option(None, help="Share of prompt tokens cached, 0 to 1."),
    trace: Path = typer.Option(None, help="Trace file: Mooncake, Azure, BurstGPT, ... "),
    lengths: Path = typer.Option(None, help="File of prompt and output lengths."),
    from_url: str = typer.Option("", "--from", help="Router of a running deployment to look at."),
    window: str = typer.Option("30s", "--window", help="With --from: how long to look."),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Skip broken lines, and count them."),
    ttft: str = typer.Option("", help="SLO of the time to first token: 1s."),
    tpot: str = typer.Option("", help="SLO of the time per output token: 30ms."),
    attainment: float = typer.Option(0.9, help="Share of requests that must meet the SLOs."),
    total: int = typer.Option(None, help="Engines in all."),
    tp: int = typer.Option(None, help="Tensor parallelism of every engine."),
    prefill_tp: int = typer.Option(None, help="Of prefill engines."),
    decode_tp: int = typer.Option(None, help="Of decode engines."),
    pp: int = typer.Option(None, help="Pipeline stages of every engine."),
    ep: int = typer.Option(None, help="Expert parallelism inside tp."),
    dp: int = typer.Option(None, help="Attention data parallelism inside tp."),
    spec_draft_tokens: int = typer.Option(None, help="Draft tokens per speculative step."),
    spec_accept_length: float = typer.Option(None, help="Tokens gained per speculative step."),
    profile: str = typer.Option("", help="Measured step times to use: a file or an id."),
    attention_backend: str = typer.Option("", help="As SGLang's; by default what it takes."),
    seed: int = typer.Option(0, help="Of arrivals and lengths that are drawn."),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="Holds the API key of --from; else PDCTL_API_KEY."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    output: Path = typer.Option(None, "-o", "--output", help="Write the plan, for `up -f`."),
    report: Path = typer.Option(None, help="Write one self-contained HTML page."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask."),
) -> None:
    """Should prefill and decode be split, into how many engines, and why?"""
    from pdctl.commands.plan_inputs import PlanOptions, question_of
    from pdctl.commands.plan_outputs import answer
    from pdctl.commands.spread import progress_line, spread_over_cores
    from pdctl.engines.api_key import use_key_file
    from pdctl.verdict.verdict import decide

    use_key_file(api_key_file)
    options = PlanOptions(
        model=model,
        gpus=gpus,
        isl=isl,
        osl=osl,
        rate=rate,
        concurrency=concurrency,
        prefix_hit=prefix_hit,
        trace=trace,
        lengths=lengths,
        from_url=from_url,
        window=window,
        skip_bad=skip_bad,
        ttft=ttft,
        tpot=tpot,
        attainment=attainment,
        total=total,
        tp=tp,
        prefill_tp=prefill_tp,
        decode_tp=decode_tp,
        pp=pp,
        ep=ep,
        dp=dp,
        draft_tokens=spec_draft_tokens,
        accept_length=spec_accept_length,
        profile=profile,
        attention_backend=attention_backend,
        seed=seed,
        no_input=no_input or as_json,
    )
    name, question = question_of(options)
    with progress_line() as progress:
        verdict = decide(
            question, spread=spread_over_cores, progress=progress, queues=report is not None
        )
    answer(name, question, verdict, as_json=as_json, output=output, report=report)


plan.__doc__ = f"{plan.__doc__}\n\n{EXAMPLES}"
