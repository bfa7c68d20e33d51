"""From a quantisation config to bytes per parameter and the arithmetic it runs in. Pure."""

import re
from dataclasses import dataclass
from typing import Literal

from pdctl.inspection.model_files import Fields

Part = Literal["attention", "mlp", "experts", "shared", "embeddings"]
Compute = Literal["bf16", "fp8", "fp4"]
PARTS: tuple[Part, ...] = ("attention", "mlp", "experts", "shared")
_WORDS: tuple[tuple[Part, tuple[str, ...]], ...] = (
    ("shared", ("shared_expert",)),
    ("experts", ("experts", "block_sparse_moe")),
    (
        "attention",
        ("attn", "attention", "q_proj", "k_proj", "v_proj", "o_proj", "_a_proj", "kv_b_"),
    ),
    ("embeddings", ("lm_head", "embed_tokens")),
    ("mlp", ("mlp", "feed_forward", "gate_up", "up_proj", "down_proj", "gate_proj")),
)
_OTHER_MODELS = ("visual", "vision", "audio", "projector")
# Compiled on first use: most files leave nothing out, and start-up counts.
_GATE = r"(mlp\.gate|router|shared_expert_gate|\bgate)\W*$"
_LAYER = r"layers\.(\d+)\b"


@dataclass(frozen=True)
class Format:
    """One format of weights. bytes_per_param counts scales and zero points."""

    label: str
    bytes_per_param: float
    compute: Compute


@dataclass(frozen=True)
class Quantization:
    """What is stored how. left_out: parts, and the share of each, that stay in 16 bits."""

    format: Format
    left_out: dict[Part, float]
    assumption: str | None = None


BF16 = Format("bf16", 2.0, "bf16")
FP8 = Format("fp8", 1.0, "fp8")
INT8 = Format("int8", 1.0, "fp8")
MXFP4 = Format("mxfp4", 4.25 / 8, "bf16")
NVFP4 = Format("nvfp4", 4.5 / 8, "fp4")


def int4(label: str, group_size: int, *, zero_points: bool) -> Format:
    """Four-bit integers with a 16-bit scale, and with AWQ or GPTQ a 4-bit zero, per group."""
    bits = 4 + (16 + (4 if zero_points else 0)) / group_size
    return Format(label, bits / 8, "bf16")


def format_named(name: str) -> Format:
    """The format a release's name says: "fp8", "nvfp4", "awq", "gptq", "int4", "w4a16"."""
    if "fp8" in name:
        return FP8
    return NVFP4 if "fp4" in name else int4(f"{name} int4", 128, zero_points=True)


def quantization_of(config: Fields, *, num_layers: int) -> Quantization | None:
    """What a `quantization_config` says, or None when there is none.

    Source: transformers' quantisation docs; compressed-tensors, ModelOpt, OCP MX v1.0 formats.
    Ignores: mixed formats in one model (the first group counts), activation and cache formats.
    """
    method = (config.text("quant_method") or config.text("quant_algo") or "").lower()
    found = _format(method, config)
    if found is None:
        label = method or "a quantisation config without quant_method"
        return Quantization(
            Format(label[:40], 2.0, "bf16"), {}, f"quantisation {label[:40]!r} is counted as bf16"
        )
    names = config.texts(
        "modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules", "exclude"
    )
    left_out = _left_out(names, num_layers)
    if found is MXFP4:  # in transformers only experts are ever stored so
        left_out = {**left_out, "attention": 1.0, "mlp": 1.0, "shared": 1.0}
    return Quantization(found, left_out)


def _format(method: str, config: Fields) -> Format | None:
    if "mxfp4" in method:
        return MXFP4
    if method in ("awq", "gptq", "auto-round", "awq_marlin", "gptq_marlin"):
        return _integers(method, config)
    if method == "compressed-tensors":
        return _compressed(config)
    if method.startswith("modelopt") or "nvfp4" in method:
        return _modelopt(method, config)
    if "fp8" in method or method == "w8a8_fp8":
        return FP8
    if "int8" in method:
        return INT8
    if method == "bitsandbytes":
        return INT8 if config.flag("load_in_8bit") else int4(method, 64, zero_points=False)
    return None


def _integers(method: str, config: Fields) -> Format:
    group = config.maybe_count("group_size", "q_group_size", least=-1) or 128
    if config.maybe_count("bits", "w_bit", least=2, most=16) == 8:
        return INT8
    return int4(f"{method} int4", max(group, 32) if group > 0 else 4096, zero_points=True)


def _compressed(config: Fields) -> Format | None:
    groups = config.part("config_groups")
    if groups is None:
        return None
    first = next((v for v in groups.values.values() if isinstance(v, dict)), {})
    weights = Fields(first, config.file).part("weights")
    if weights is None:
        return None
    bits = weights.maybe_count("num_bits", most=16)
    floats = weights.text("type") == "float"
    if bits == 8:
        return FP8 if floats else INT8
    if bits == 4:
        group = weights.maybe_count("group_size", least=1) or 128
        return NVFP4 if floats else int4("compressed-tensors int4", group, zero_points=False)
    return None


def _modelopt(method: str, config: Fields) -> Format | None:
    algorithm = f"{method} {config.text('quant_algo') or ''}".lower()
    if "fp4" in algorithm:
        return NVFP4
    return FP8 if "fp8" in algorithm else None


def _left_out(names: tuple[str, ...], num_layers: int) -> dict[Part, float]:
    """The share of each part that `names` (module names, globs, "re:..." patterns) exempt.

    The patterns are only searched for words, never run: a file of unknown origin wrote them.
    """
    layers: dict[Part, set[int]] = {}
    everywhere: set[Part] = set()
    for name in names[:100_000]:
        part = _part(name.replace("\\", "").lower())
        if part is None:
            continue
        layer = re.search(_LAYER, name.replace("\\", ""))
        if layer is None:
            everywhere.add(part)
        elif len(layer.group(1)) < 6 and int(layer.group(1)) < num_layers:  # else multi-token heads
            layers.setdefault(part, set()).add(int(layer.group(1)))
    shares = {part: min(1.0, len(found) / num_layers) for part, found in layers.items()}
    return {**shares, **dict.fromkeys(everywhere, 1.0)}


def _part(name: str) -> Part | None:
    if re.search(_GATE, name) or any(word in name for word in _OTHER_MODELS):
        return None
    return next((part for part, words in _WORDS if any(word in name for word in words)), None)
