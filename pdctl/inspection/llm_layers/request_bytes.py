"""Bytes that a request keeps in an engine's memory, by mixer: KV, windows, index, state. Pure."""

import math

from pdctl.inspection.layers import Mixer
from pdctl.inspection.records import Llm

# DeepSeek-V4's pools: 448 FP8 values, 64 rotary values in 16 bits and 8 scales an entry, in pages
# of 256 tokens that are padded to a multiple of 576 B.
# Source: sglang 0.5.23 mem_cache: DeepSeekV4 token-to-KV pool
V4_PAGE_TOKENS = 256
V4_ENTRY_BYTES = 584
V4_PADDING = 576
CONV_DTYPE_BYTES = 2


def is_trimmed(llm: Llm, mixer: Mixer) -> bool:
    """Answer whether SGLang frees a mixer's tokens as they leave its window.

    Source: sglang 0.5.23 model_executor/pool_configurator.py: of some architectures only.
    """
    return llm.trims_windows and mixer.kind == "window"


def index_bytes(mixer: Mixer) -> float:
    """Bytes of a sparse index per token: a key, and its scale where it is FP8.

    Source: sglang 0.5.23 model_executor/pool_configurator.py.
    """
    return mixer.index_bytes


def kv_bytes(mixer: Mixer, kv_dtype_bytes: float) -> float:
    """Bytes of KV cache one token takes in one mixer, all heads stored once.

    Source: sglang 0.5.23 model_executor/pool_configurator.py.
    """
    if mixer.kind != "latents":
        return mixer.kv_values * kv_dtype_bytes
    ratio = mixer.compress_ratio
    return _padded_entries(V4_PAGE_TOKENS // ratio) if ratio else 0.0


def latent_window_bytes() -> float:
    """Bytes of each token in the window of one DeepSeek-V4 layer.

    Source: sglang 0.5.23, DeepSeek-V4's window pool.
    """
    return _padded_entries(V4_PAGE_TOKENS)


def state_slot_bytes(mixer: Mixer) -> float:
    """Bytes of state one mixer keeps for a request, whatever its length.

    Source: sglang 0.5.23 configs/mamba_utils.py: temporal state in fp32 unless the file says
    otherwise, convolution in 16 bits.
    Ignores: copies that speculative decoding keeps.
    """
    state = mixer.state_values * mixer.state_dtype_bytes
    return state + mixer.conv_values * CONV_DTYPE_BYTES


def ring_bytes(mixer: Mixer) -> float:
    """Bytes of a compressor's state per token of the window pool: one ring for each page.

    Source: sglang 0.5.23: layers of ratio 4 keep a ring per page, those of 128 one per request.
    """
    if mixer.compress_ratio != 4:
        return 0.0
    return mixer.state_values * mixer.state_dtype_bytes / V4_PAGE_TOKENS


def request_ring_bytes(mixer: Mixer) -> float:
    """Bytes of a compressor's state that DeepSeek-V4 sets aside for every request it may run.

    Source: as ring_bytes.
    """
    if mixer.kind != "latents" or mixer.compress_ratio <= 4:
        return 0.0
    return mixer.state_values * mixer.state_dtype_bytes


def _padded_entries(entries: int) -> float:
    """Bytes per token of a page that keeps `entries` latents of V4_PAGE_TOKENS tokens."""
    return math.ceil(entries * V4_ENTRY_BYTES / V4_PADDING) * V4_PADDING / V4_PAGE_TOKENS
