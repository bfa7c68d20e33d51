"""The options of `pdctl plan`: every one that changes its answer is a field here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdctl.commands.options.engine_options import EngineOptions
from pdctl.commands.options.parameters import options_from
from pdctl.commands.options.plan_engines import args_text
from pdctl.engines.launchers.registry import LOCAL

SETTINGS = (  # SGLang's flags that `plan` takes by themselves too, beside those in --args
    "attention_backend",
    "chunked_prefill_size",
    "mem_fraction_static",
    "kv_cache_dtype",
    "quantization",
    "page_size",
    "mamba_full_memory_ratio",
    "mamba_radix_cache_strategy",
    "scheduler_recv_interval",
)


@dataclass(frozen=True)
class PlanOptions(EngineOptions):
    """The flags of `pdctl plan` that describe the question, as typed. None or "": not given.

    A printed command repeats each that is not at its default, so that it asks the same question.
    """

    model: str = ""
    gpus: str = ""
    on: str = LOCAL
    gpu_file: Path | None = None
    trace: Path | None = None
    lengths: Path | None = None
    from_url: str = ""
    api_key_file: Path | None = None
    window: str = "30s"
    skip_bad: bool = False
    time_unit: str = ""
    isl: float | None = None
    osl: float | None = None
    isl_cv: float | None = None
    osl_cv: float | None = None
    prefix_hit: float | None = None
    rate: float | None = None
    concurrency: float | None = None
    ttft: str = ""
    tpot: str = ""
    attainment: float = 0.9
    fewest: bool = False
    total: int | None = None
    draft_tokens: int | None = None
    accept_length: float | None = None
    profile: str = ""
    release: str = ""
    seed: int = 0
    no_input: bool = False


def given_options(given: Mapping[str, Any]) -> PlanOptions:
    """The options in the parameters of `pdctl plan`."""
    settings = {f"--{name.replace('_', '-')}": given[name] for name in SETTINGS}
    return options_from(
        PlanOptions,
        given,
        args=args_text(given["args"], settings),
        draft_tokens=given["spec_draft_tokens"],
        accept_length=given["spec_accept_length"],
        no_input=given["no_input"] or given["as_json"],
    )
