"""From a quantisation config to bytes per parameter of each matrix, and the arithmetic. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pdctl.inspection.layers import Part
from pdctl.inspection.llm_layers.module_names import Selection, layers_in, selections
from pdctl.inspection.model_files import Fields

Compute = Literal["bf16", "fp8", "fp4"]
_MOST_NAMES = 100_000


@dataclass(frozen=True)
class Format:
    """One format of weights. bytes_per_param counts scales and zero points."""

    label: str
    bytes_per_param: float
    compute: Compute


@dataclass(frozen=True)
class Quantization:
    """The format of every matrix: that of the first entry of `named` that matches, else `format`.

    named: with None for 16 bits. only_named: other matrices stay in 16 bits.
    kv_dtype_bytes: of the KV cache, where the release says it. block: weights of one scale, in
    each direction.
    """

    format: Format
    named: tuple[tuple[Selection, Format | None], ...] = ()
    only_named: bool = False
    kv_dtype_bytes: float | None = None
    notes: tuple[str, ...] = ()
    block: int | None = None

    def format_of(self, layer: int | None, part: Part, leaf: str) -> Format:
        """The format of one matrix; embeddings and head are 16 bits unless they are named."""
        if part == "router":
            return BF16
        for selection, found in self.named:
            if selection.has(layer, part, leaf):
                return found or BF16
        outside = part in ("embedding", "head")
        return BF16 if outside or self.only_named else self.format


BF16 = Format("bf16", 2.0, "bf16")
FP8 = Format("fp8", 1.0, "fp8")
INT8 = Format("int8", 1.0, "fp8")
MXFP8 = Format("mxfp8", 8.25 / 8, "fp8")
MXFP4 = Format("mxfp4", 4.25 / 8, "bf16")
NVFP4 = Format("nvfp4", 4.5 / 8, "fp4")
MXFP4_WEIGHTS = Format("mxfp4", 4.25 / 8, "fp4")  # of any matrix, not gpt-oss' experts alone


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
    """The formats in a `quantization_config`, or None if it names none.

    Source: transformers' quantisation docs; compressed-tensors, ModelOpt, OCP MX v1.0 formats.
    Ignores: formats of activations.
    """
    method = (config.text("quant_method") or config.text("quant_algo") or "").lower()
    cache = _cache_bytes(config)
    groups = _groups(config, num_layers)
    if groups:
        formats = [found for _, found in groups if found]
        main = min(formats, key=lambda f: f.bytes_per_param) if formats else BF16
        if method == "fp8":  # DeepSeek-V4's NVFP4 releases: all but what is named stays FP8
            narrow = tuple(one for one in groups if one[1] is not None)
            return Quantization(FP8, narrow, kv_dtype_bytes=cache)
        return Quantization(main, groups, only_named=True, kv_dtype_bytes=cache)
    unmatched = _unmatched(config)
    found = None if unmatched else _format(method, config)
    if found is None:
        label = method[:40] or "without quant_method"
        what = f"quantisation {label!r}" if method else "a quantisation config without quant_method"
        note = f"{what} is counted as bf16"
        if unmatched:
            note += f": it names {unmatched[:60]!r}, and no such matrix is known"
        return Quantization(Format(label, 2.0, "bf16"), kv_dtype_bytes=cache, notes=(note,))
    names = config.texts(
        "modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules", "exclude"
    )
    kept, notes = _kept(names, num_layers)
    named: list[tuple[Selection, Format | None]] = [(one, None) for one in kept]
    if found is MXFP4:  # in transformers only experts are ever stored so
        named.append((_NOT_EXPERTS, None))
    return Quantization(
        found, tuple(named), kv_dtype_bytes=cache, notes=notes, block=_block(config)
    )


def _block(config: Fields) -> int | None:
    """Rows and columns of weights that share a scale; None: the config does not say."""
    sizes = config.values.get("weight_block_size")
    if not isinstance(sizes, list) or not all(isinstance(n, int) and n > 0 for n in sizes):
        return None
    return max(sizes, default=None)


def _cache_bytes(config: Fields) -> float | None:
    """Bytes per value of the KV cache, from a ModelOpt or compressed-tensors config."""
    scheme = config.part("kv_cache_scheme")
    if scheme is not None:
        return (scheme.maybe_count("num_bits", most=64) or 16) / 8
    name = (config.text("kv_cache_quant_algo") or "").lower()
    return {"fp8": 1.0, "nvfp4": 4.5 / 8, "int8": 1.0}.get(name)


def _groups(config: Fields, num_layers: int) -> tuple[tuple[Selection, Format | None], ...]:
    """The format of each matrix where a config names several, or names what it quantises."""
    layers = config.part("quantized_layers")
    if layers is not None:
        return _by_layer(layers, num_layers)
    found: list[tuple[Selection, Format | None]] = []
    groups = config.part("config_groups")
    for value in groups.values.values() if groups else ():
        group = Fields(value, config.file) if isinstance(value, dict) else None
        targets = group.texts("targets") if group else ()
        weights = group.part("weights") if group else None
        if not weights or any(map(_is_every_linear, targets)):
            return ()
        form = _weights_format(weights)
        found += [(one, form) for one in selections(targets[:_MOST_NAMES], num_layers)]
    kept, _ = _kept(config.texts("ignore"), num_layers)
    return tuple([(one, None) for one in kept] + found) if found else ()


def _is_every_linear(target: str) -> bool:
    return target.endswith("Linear")


def _unmatched(config: Fields) -> str:
    """The first of the names that a config quantises, where it names matrices or layers.

    Ask after _groups has found none that exists; "" where the config means every matrix.
    """
    layers, groups = config.part("quantized_layers"), config.part("config_groups")
    names = list(layers.values) if layers else []
    for value in groups.values.values() if groups else ():
        targets = Fields(value, config.file).texts("targets") if isinstance(value, dict) else ()
        names += [] if any(map(_is_every_linear, targets)) else targets
    return next(iter(names), "")


def _by_layer(layers: Fields, num_layers: int) -> tuple[tuple[Selection, Format | None], ...]:
    names: dict[str, list[str]] = {}
    for name, said in list(layers.values.items())[:_MOST_NAMES]:
        algorithm = said.get("quant_algo") if isinstance(said, dict) else said
        names.setdefault(str(algorithm).lower(), []).append(name)
    return tuple(
        (selection, _modelopt(algorithm, layers))
        for algorithm, found in names.items()
        for selection in selections(found, num_layers)
    )


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
    first = next((v for v in groups.values.values() if isinstance(v, dict)), {}) if groups else {}
    weights = Fields(first, config.file).part("weights")
    return _weights_format(weights) if weights else None


def _weights_format(weights: Fields) -> Format | None:
    bits = weights.maybe_count("num_bits", most=16)
    floats = weights.text("type") == "float"
    if bits == 8:
        return FP8 if floats else INT8
    if bits == 4:
        group = weights.maybe_count("group_size", least=1) or 128
        if floats:
            return MXFP4_WEIGHTS if group == 32 else NVFP4
        return int4("compressed-tensors int4", group, zero_points=False)
    return None


def _modelopt(method: str, config: Fields) -> Format | None:
    algorithm = f"{method} {config.text('quant_algo') or ''}".lower()
    if "mxfp4" in algorithm:
        return MXFP4_WEIGHTS
    if "fp4" in algorithm:
        return NVFP4
    if "w4a" in algorithm or "int4" in algorithm:
        return int4("modelopt int4", 128, zero_points=False)
    if "mxfp8" in algorithm:
        return MXFP8
    return FP8 if "fp8" in algorithm else None


def _kept(names: Iterable[str], num_layers: int) -> tuple[list[Selection], tuple[str, ...]]:
    names = tuple(names)[:_MOST_NAMES]
    found = selections(names, num_layers)
    outside = [n for n in names if layers_in(n, num_layers) == frozenset()]
    if names and len(outside) == len(names):
        return found, (
            f"the quantisation config names only layers that do not exist, such as "
            f"{outside[0][:60]!r}: nothing is kept in 16 bits",
        )
    return found, ()


_NOT_EXPERTS = Selection(None, frozenset(("attention", "state", "mlp", "shared")), None)
EXPERTS_FP4 = (
    Selection(None, frozenset(("experts",)), None),
    Format("fp4 experts", 4.25 / 8, "fp8"),
)
