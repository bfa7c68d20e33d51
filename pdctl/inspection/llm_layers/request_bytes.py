"""What a request keeps in an engine's memory, by layer: KV, windows, index, state. Pure."""

import math

from pdctl.inspection.layers import Layer, Mixer, mixers_of

# DeepSeek-V4's pools: 448 FP8 values, 64 rotary values in 16 bits and 8 scales an entry, in pages
# of 256 tokens that are padded to a multiple of 576 B.
# Source: sglang 0.5.23 mem_cache: DeepSeekV4 token-to-KV pool
V4_PAGE_TOKENS = 256
V4_ENTRY_BYTES = 584
V4_PADDING = 576
CONV_DTYPE_BYTES = 2


def kv_bytes_growing(
    layers: tuple[Layer, ...], kv_dtype_bytes: float, *, trims_windows: bool
) -> float:
    """Bytes each further token of a request takes, index keys included, all heads stored once.

    Source: sglang 0.5.23 model_executor/pool_configurator.py.
    Ignores: pages other than DeepSeek-V4's; copies under tensor parallelism.
    """
    grows = (m for m in mixers_of(layers) if not (trims_windows and m.kind == "window"))
    return sum(kv_bytes(m, kv_dtype_bytes) + index_bytes(m) for m in grows)


def window_bytes_per_token(
    layers: tuple[Layer, ...], kv_dtype_bytes: float, *, trims_windows: bool
) -> float:
    """Bytes of each token inside the windows that SGLang trims; 0 where it trims none.

    Source: sglang 0.5.23 model_executor/pool_configurator.py.
    Ignores: as kv_bytes_growing.
    """
    mixers = mixers_of(layers)
    latents = sum(latent_window_bytes() for m in mixers if m.kind == "latents")
    if not trims_windows:
        return latents
    return latents + sum(kv_bytes(m, kv_dtype_bytes) for m in mixers if m.kind == "window")


def window_tokens(layers: tuple[Layer, ...]) -> int:
    """The longest window of any layer; 0 without windows."""
    return max((m.window or 0 for m in mixers_of(layers)), default=0)


def window_bytes(
    layers: tuple[Layer, ...], context_tokens: float, kv_dtype_bytes: float, *, trims_windows: bool
) -> float:
    """Bytes a request of `context_tokens` keeps in trimmed windows.

    Source, Ignores: as window_bytes_per_token.
    """
    return sum(
        window_bytes_per_token((Layer((m,), ()),), kv_dtype_bytes, trims_windows=trims_windows)
        * min(context_tokens, m.window or 0)
        for m in mixers_of(layers)
    )


def state_bytes(layers: tuple[Layer, ...]) -> float:
    """Bytes of state a request keeps, whatever its length; to be divided by tp.

    Source: sglang 0.5.23 configs/mamba_utils.py: temporal state in fp32 unless the file says
    otherwise, convolution in 16 bits.
    Ignores: copies that speculative decoding keeps.
    """
    return sum(
        m.state_values * m.state_dtype_bytes + m.conv_values * CONV_DTYPE_BYTES
        for m in mixers_of(layers)
    )


def moved_bytes(
    layers: tuple[Layer, ...], prompt_tokens: float, kv_dtype_bytes: float, *, trims_windows: bool
) -> float:
    """Bytes a prefill engine sends a decode engine for one prompt: KV, index, windows, state.

    Source: sglang 0.5.23 disaggregation/utils.py.
    Ignores: copies under tensor parallelism; the first token and its metadata.
    """
    growing = kv_bytes_growing(layers, kv_dtype_bytes, trims_windows=trims_windows)
    windows = window_bytes(layers, prompt_tokens, kv_dtype_bytes, trims_windows=trims_windows)
    return growing * prompt_tokens + windows + state_bytes(layers)


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
