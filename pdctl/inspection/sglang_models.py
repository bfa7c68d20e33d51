"""What SGLang decides by a model's architecture and no config.json says. Read in release 0.5.23."""

SGLANG_RELEASE = "0.5.23"

# model_config.py is_hybrid_swa_model: keeps and moves only the last window of window layers
TRIMS_WINDOWS = (
    "Llama4",
    "GptOss",
    "MiMoV2",
    "Step3p",
    "Gemma4",
    "Muse",
    "DeepseekV4",
)
# Requests one engine runs at most, whatever its memory holds
MOST_RUNNING = {"DeepseekV4ForCausalLM": 256}
# Tokens of a KV page where SGLang sets another than the backend's
PAGE_TOKENS = {"DeepseekV4ForCausalLM": 256}
# Share of the full pool's tokens that the window pool gets (--swa-full-tokens-ratio)
WINDOW_POOL_SHARE = {"DeepseekV4ForCausalLM": 0.1}
DEFAULT_WINDOW_POOL_SHARE = 0.8
# State slots a running request takes with a radix cache, by --mamba-radix-cache-strategy
# (mem_cache/kv_cache_configurator.py); without a radix cache, as in decode engines, it takes one
SLOTS_PER_REQUEST = {"extra_buffer": 5, "extra_buffer_lazy": 5, "no_buffer": 3}
_EXTRA_BUFFER = ("Qwen3Next", "Qwen3_5", "KimiLinear", "NemotronH", "GraniteMoeHybrid", "FalconH1")
MAMBA_FULL_MEMORY_RATIO = 0.9


def trims_windows(architecture: str) -> bool:
    """Does SGLang keep only the last window of layers that have one?"""
    return architecture.startswith(TRIMS_WINDOWS)


def most_running(architecture: str) -> int | None:
    """The cap SGLang sets on running requests of this architecture; None: none."""
    return MOST_RUNNING.get(architecture)


def page_tokens(architecture: str) -> int:
    """Tokens of a KV page that SGLang forces on this architecture; 1: it forces none."""
    return PAGE_TOKENS.get(architecture, 1)


def window_pool_share(architecture: str) -> float:
    """Tokens of the window pool per token of the full one."""
    return WINDOW_POOL_SHARE.get(architecture, DEFAULT_WINDOW_POOL_SHARE)


def slots_per_request(architecture: str, *, radix_cache: bool) -> int:
    """State slots SGLang reserves per running request.

    Source: sglang 0.5.23 mem_cache/kv_cache_configurator.py; "auto" as a strategy takes
    extra_buffer where the architecture has kernels for it, else no_buffer.
    Ignores: --mamba-radix-cache-strategy, --max-mamba-cache-size, speculative decoding.
    """
    if not radix_cache:
        return 1
    extra = architecture.startswith(_EXTRA_BUFFER)
    return SLOTS_PER_REQUEST["extra_buffer" if extra else "no_buffer"]
