"""Mixers that keep a state of fixed size: linear attention, state space, convolution. Pure."""

from pdctl.inspection.layers import Matrix, Mixer
from pdctl.inspection.llm_layers.attention_shape import attention_shape, hidden_size
from pdctl.inspection.model_files import Fields

LIGHTNING = "lightning attention"  # what unknown linear attention is taken for
_KDA_KEYS = (
    "num_kv_heads_for_linear_attn",
    "kda_head_dim",
    "linear_num_heads",
    "short_conv_kernel_size",
)
_LONGEST_KERNEL = 1024
_STATE_DTYPES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


def linear_attention(text: Fields) -> Mixer:
    """Linear attention of the kind whose keys the file has.

    Raises InvalidInput naming the key that is missing or absurd.
    """
    linear = text.part("linear_attn_config")
    if linear is not None:
        return _kda(text, linear)
    if text.maybe_count("linear_num_value_heads") is not None:
        return _gated_delta_net(text)
    if any(text.raw(key) is not None for key in _KDA_KEYS):
        return _kda(text, text)
    return mamba(text) if has_mamba(text) else _lightning(text)


def has_mamba(text: Fields) -> bool:
    """Does the file describe a state-space mixer?"""
    return any(text.raw(key) is not None for key in ("mamba_d_state", "ssm_state_size"))


def _gated_delta_net(text: Fields) -> Mixer:
    """Source: transformers Qwen3NextGatedDeltaNet; sglang 0.5.23 configs/mamba_utils.py."""
    hidden = hidden_size(text)
    v_heads, dv = text.count("linear_num_value_heads"), text.count("linear_value_head_dim")
    k_heads, dk = text.count("linear_num_key_heads"), text.count("linear_key_head_dim")
    kernel = text.maybe_count("linear_conv_kernel_dim", most=_LONGEST_KERNEL) or 4
    keys, values = k_heads * dk, v_heads * dv
    return _state_mixer(
        text,
        "gated delta net",
        (
            _state("in_qkv", hidden * (2 * keys + values)),
            _state("in_z", hidden * values),
            _state("in_ba", hidden * 2 * v_heads),
            _state("out", values * hidden),
        ),
        state=v_heads * dv * dk,
        conv=(values + 2 * keys) * (kernel - 1),
    )


def _kda(text: Fields, linear: Fields) -> Mixer:
    """Source: Kimi-Linear (arXiv 2510.26692) section 3; sglang 0.5.23 configs/mamba_utils.py,
    models/kimi_linear.py (no_kda_lora) and kimi_k3.py (use_full_rank_gate).
    """
    hidden = hidden_size(text)
    heads = linear.count("linear_num_heads", "num_heads", "num_attention_heads")
    width = linear.maybe_count("linear_head_dim", "kda_head_dim", "head_dim") or 128
    kernel = (
        linear.maybe_count("short_conv_kernel_size", "linear_conv_kernel_dim", most=_LONGEST_KERNEL)
        or 4
    )
    inner = heads * width
    whole, low_rank = hidden * inner, hidden * width + width * inner
    full_rank = text.flag("no_kda_lora") or _is_transformers_bailing(text)
    forget = whole if full_rank else low_rank
    output = whole if full_rank or linear.flag("use_full_rank_gate") else low_rank
    return _state_mixer(
        text,
        "Kimi delta attention",
        (
            *(_state(leaf, hidden * inner) for leaf in ("q", "k", "v", "out")),
            _state("in_gates", forget + output + hidden * heads),
        ),
        state=heads * width * width,
        conv=3 * inner * (kernel - 1),
    )


def _is_transformers_bailing(text: Fields) -> bool:
    """Ling-3 as transformers spells it, whose gates always have the full rank.

    Source: transformers 5.24 modeling_bailing_hybrid.py.
    """
    return text.text("model_type") == "bailing_hybrid" and text.raw("linear_num_heads") is not None


def _lightning(text: Fields) -> Mixer:
    """Source: MiniMax-01 (arXiv 2501.08313) section 2.2: q, k, v, output gate and output; sglang
    0.5.23 models/bailing_moe_linear.py has the same beside MLA.
    """
    heads, _, width, _ = attention_shape(text)
    width = text.maybe_count("head_dim") or width
    inner = heads * width
    matrices = tuple(
        _state(leaf, hidden_size(text) * inner) for leaf in ("q", "k", "v", "z", "out")
    )
    return _state_mixer(text, LIGHTNING, matrices, state=heads * width * width, conv=0)


def mamba(text: Fields) -> Mixer:
    """Source: Mamba-2 (arXiv 2405.21060) section 7; sglang 0.5.23 configs/mamba_utils.py."""
    hidden = hidden_size(text)
    heads = text.maybe_count("mamba_num_heads", "mamba_n_heads")
    if heads is None:
        return _mamba_1(text)
    width = _mamba_width(text, heads)
    groups = text.maybe_count("n_groups", "mamba_n_groups", "mamba_ngroups") or 1
    state = text.count("ssm_state_size", "mamba_d_state", "mamba_state_dim")
    kernel = text.maybe_count("conv_kernel", "mamba_d_conv", most=_LONGEST_KERNEL) or 4
    inner = heads * width
    return _state_mixer(
        text,
        "Mamba-2",
        (
            _state("in", hidden * (2 * inner + 2 * groups * state + heads)),
            _state("out", inner * hidden),
        ),
        state=inner * state,
        conv=(inner + 2 * groups * state) * (kernel - 1),
    )


def _mamba_width(text: Fields, heads: int) -> int:
    if isinstance(text.raw("mamba_d_head"), int) or text.raw("mamba_head_dim") is not None:
        return text.count("mamba_head_dim", "mamba_d_head")
    inner = text.maybe_count("mamba_d_ssm")  # "auto" or absent: what is left over
    return (inner or (text.maybe_count("mamba_expand") or 2) * hidden_size(text)) // heads


def _mamba_1(text: Fields) -> Mixer:
    """Source: Mamba (arXiv 2312.00752) section 3.4; transformers JambaMambaMixer."""
    hidden = hidden_size(text)
    inner = (text.maybe_count("mamba_expand", "expand") or 2) * hidden
    state = text.count("mamba_d_state", "ssm_state_size", "state_size")
    rank = text.maybe_count("mamba_dt_rank") if text.text("mamba_dt_rank") is None else None
    rank = rank or -(-hidden // 16)
    kernel = text.maybe_count("mamba_d_conv", "conv_kernel", most=_LONGEST_KERNEL) or 4
    return _state_mixer(
        text,
        "Mamba",
        (
            _state("in", 2 * hidden * inner),
            _state("x", inner * (rank + 2 * state) + rank * inner),
            _state("out", inner * hidden),
        ),
        state=inner * state,
        conv=inner * (kernel - 1),
    )


def short_conv(text: Fields) -> Mixer:
    """A short convolution that stands for attention.

    Source: transformers Lfm2ShortConv: three gates in, one out, a short convolution."""
    hidden = hidden_size(text)
    kernel = text.maybe_count("conv_L_cache", most=_LONGEST_KERNEL) or 3
    matrices = (_state("in", 3 * hidden * hidden), _state("out", hidden * hidden))
    return _state_mixer(text, "short convolution", matrices, state=0, conv=hidden * (kernel - 1))


def _state_mixer(
    text: Fields, name: str, matrices: tuple[Matrix, ...], *, state: int, conv: int
) -> Mixer:
    said = text.text("mamba_ssm_dtype") or text.text("mamba_ssm_cache_dtype") or "float32"
    if said not in _STATE_DTYPES:
        raise text.wrong("mamba_ssm_dtype", f"must be {' or '.join(_STATE_DTYPES)}, not {said!r}")
    return Mixer(
        kind="state",
        name=name,
        matrices=matrices,
        state_values=state,
        state_dtype_bytes=_STATE_DTYPES[said],
        conv_values=conv,
    )


def _state(leaf: str, params: int) -> Matrix:
    return Matrix("state", leaf, float(params))
