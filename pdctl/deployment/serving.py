"""SGLang's flags as they change an engine's memory, step times and limits. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pdctl.deployment.records import PlannedFor
from pdctl.deployment.sglang_flags import options
from pdctl.errors import InvalidInput
from pdctl.inspection.llm_layers.formats import stored
from pdctl.inspection.quantization import FP8, MXFP8, NVFP4, Format, Quantization
from pdctl.inspection.records import Llm
from pdctl.inspection.sglang_models import SLOTS_PER_REQUEST
from pdctl.perf_model.records import SGLANG_DEFAULTS, Balance, Serving

NO_CHUNKS = -1  # --chunked-prefill-size of an engine that computes a prompt in one step
_KV_BYTES = {
    "fp8_e5m2": 1.0,
    "fp8_e4m3": 1.0,
    "mxfp8": MXFP8.bytes_per_param,
    "bf16": 2.0,
    "bfloat16": 2.0,
    "nvfp4": NVFP4.bytes_per_param,
    "fp4_mx_block16": NVFP4.bytes_per_param,
}
# --quantization -> the format to which SGLang casts a 16-bit checkpoint as it loads; embeddings
# and head stay in 16 bits
_ONLINE: Mapping[str, Format] = {
    "fp8": FP8,
    "w8a8_fp8": FP8,
    "mxfp8": MXFP8,
    "nvfp4_online": NVFP4,
}
BALANCES: Mapping[str, Balance] = {
    "round_robin": "round_robin",
    "follow_bootstrap_room": "follow_bootstrap_room",
    "total_requests": "total_requests",
    "total_tokens": "total_tokens",
}
# --quantization -> how the label of a checkpoint begins that it reads
_READS = {
    **dict.fromkeys(("fp8", "w8a8_fp8", "modelopt_fp8"), "fp8"),
    **dict.fromkeys(("modelopt_fp4", "petit_nvfp4"), "nvfp4"),
    **dict.fromkeys(("awq", "awq_marlin"), "awq"),
    **dict.fromkeys(("gptq", "gptq_marlin"), "gptq"),
    "mxfp8": "mxfp8",
    "mxfp4": "mxfp4",
}


def serving_of(args: Sequence[str]) -> Serving:
    """The serving settings of an engine with these flags.

    Raises InvalidInput for a value that SGLang does not take.
    Source: sglang 0.5.23 server_args.py, and check_server_args in it.
    Ignores: flags that change neither memory, step times nor limits.
    """
    given = options(args)
    drafts = _whole(given, "--speculative-num-draft-tokens", least=1)
    serving = Serving(
        chunk=_chunk(given),
        max_running=_whole(given, "--max-running-requests", least=1),
        max_total_tokens=_whole(given, "--max-total-tokens", least=1),
        mem_fraction=_share(given, "--mem-fraction-static"),
        max_context=_whole(given, "--context-length", least=1),
        page_size=_whole(given, "--page-size", least=1) or 1,
        reserved_decode_tokens=_reserved(given),
        radix_cache=_radix_cache(given),
        mixed_chunk="--enable-mixed-chunk" in given,
        verify_tokens=drafts or 1,
        ngram=given.get("--speculative-algorithm", "").upper() == "NGRAM",
        kv_dtype_bytes=_KV_BYTES.get(given.get("--kv-cache-dtype", "")),
        attention_backend=_attention_backend(given),
        decode_graphs="--disable-cuda-graph" not in given,
        graph_batch=_whole(given, "--cuda-graph-max-bs-decode", least=1),
        two_batch_overlap="--enable-two-batch-overlap" in given,
        receive_interval=_whole(given, "--scheduler-recv-interval", least=1) or 1,
        state_memory_ratio=_positive(given, "--mamba-full-memory-ratio"),
        state_slots=SLOTS_PER_REQUEST.get(given.get("--mamba-radix-cache-strategy", "")),
        balance=BALANCES.get(given.get("--load-balance-method", "")),
        all_to_all=given.get("--moe-a2a-backend", "none") != "none",
    )
    _check_together(serving, given)
    return serving


def simulated_serving(args: Sequence[str]) -> Serving:
    """The serving settings of a simulated engine with these flags.

    Ignores: speculative decoding unless --sim-accept-length says what it gains; a radix cache on
    decode engines.
    """
    serving = serving_of(args)
    gained = _positive(options(args), "--sim-accept-length")
    return replace(
        serving,
        verify_tokens=serving.verify_tokens if gained else 1,
        accept_length=gained or 1.0,
        radix_cache=None if serving.radix_cache else serving.radix_cache,
    )


def simulated_speculation(planned: PlannedFor | None) -> tuple[str, ...]:
    """The flags with which simulated engines speculate as planned."""
    if planned is None or planned.spec_draft_tokens is None:
        return ()
    return (
        *("--speculative-num-draft-tokens", str(planned.spec_draft_tokens + 1)),
        *("--sim-accept-length", f"{planned.spec_accept_length or 1.0:g}"),
    )


def _check_together(serving: Serving, given: Mapping[str, str]) -> None:
    chunk, page = serving.chunk or NO_CHUNKS, serving.page_size
    if chunk > 0 and chunk % page:
        raise InvalidInput(
            f"--chunked-prefill-size {chunk} is not a multiple of --page-size {page}, and SGLang "
            "asserts that it is.",
            hint=f"--chunked-prefill-size {max(1, round(chunk / page)) * page}",
        )
    if serving.mixed_chunk and "--speculative-algorithm" in given:
        raise InvalidInput(
            "SGLang asserts that --enable-mixed-chunk is not set with speculative decoding.",
            hint="remove --enable-mixed-chunk",
        )


def check_checkpoint(llm: Llm, args: Sequence[str]) -> None:
    """Raise InvalidInput where SGLang refuses to read this checkpoint with --quantization.

    Source: sglang configs/model_config.py _verify_quantization; awq and gptq read their config
    from the checkpoint.
    """
    name = options(args).get("--quantization", "")
    stored_as = llm.quantization
    reads = _READS.get(name, "")
    if stored_as is None and reads not in ("awq", "gptq"):
        return
    if not (stored_as or "16 bits").startswith(reads):
        raise InvalidInput(
            f"--quantization {name} does not match {llm.name}, whose checkpoint is in "
            f"{stored_as or '16 bits'}: SGLang refuses to start.",
            hint="leave out --quantization: SGLang reads the checkpoint's own",
        )


def served_llm(llm: Llm, args: Sequence[str]) -> Llm:
    """The LLM as an engine with these flags loads it: its format and context.

    Raises InvalidInput as check_checkpoint, and for a cast of 16 bits that pdctl has no sizes of.
    """
    check_checkpoint(llm, args)
    context = serving_of(args).max_context
    llm = llm if context is None else replace(llm, max_context=context)
    name = options(args).get("--quantization", "unquant")
    if name == "unquant" or llm.quantization is not None:
        return llm
    if name not in _ONLINE:
        raise InvalidInput(
            f"pdctl does not know the sizes of {llm.name} with --quantization {name}.",
            hint=f"one of {', '.join(_ONLINE)}, or a release of the model in that format",
        )
    cast = stored(llm, Quantization(_ONLINE[name]))
    return replace(cast, kv_dtype_bytes=llm.kv_dtype_bytes)


def _reserved(given: Mapping[str, str]) -> int:
    tokens = _whole(given, "--num-reserved-decode-tokens", least=0)
    return SGLANG_DEFAULTS.reserved_decode_tokens if tokens is None else tokens


def _chunk(given: Mapping[str, str]) -> int | None:
    chunk = _whole(given, "--chunked-prefill-size", least=NO_CHUNKS)
    return NO_CHUNKS if chunk == 0 else chunk


def _radix_cache(given: Mapping[str, str]) -> bool | None:
    """None: as the role has it by default."""
    if "--disable-radix-cache" in given:
        return False
    return True if "--disaggregation-decode-enable-radix-cache" in given else None


def _attention_backend(given: Mapping[str, str]) -> str | None:
    names = ("--prefill-attention-backend", "--attention-backend", "--decode-attention-backend")
    return next((given[name] for name in names if name in given), None)


def _whole(given: Mapping[str, str], flag: str, *, least: int) -> int | None:
    if flag not in given:
        return None
    text = given[flag]
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise InvalidInput(
            f"{flag} takes a whole number from {least} on, not {text!r}.",
            hint=f"{flag} {max(least, 1)}",
        )
    return value


def _positive(given: Mapping[str, str], flag: str) -> float | None:
    if flag not in given:
        return None
    try:
        value = float(given[flag])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InvalidInput(
            f"{flag} takes a positive number, not {given[flag]!r}.", hint=f"{flag} 0.8"
        )
    return value


def _share(given: Mapping[str, str], flag: str) -> float | None:
    value = _positive(given, flag)
    if value is not None and value >= 1:
        raise InvalidInput(f"{flag} is a share below 1, not {given[flag]}.", hint=f"{flag} 0.85")
    return value
