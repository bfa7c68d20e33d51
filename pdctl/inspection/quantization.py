"""From a quantisation config to bytes per parameter of each matrix, and the arithmetic. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pdctl.inspection.layers import Part
from pdctl.inspection.llm_layers.module_names import Selection, is_module, layers_in, selections
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
    config = _flat(config)
    method = (config.text("quant_method") or config.text("quant_algo") or "").lower()
    method = method.rpartition("/")[2]  # intel/auto-round
    cache = 1.0 if _keeps_fp8_cache(method, config) else None
    groups = _groups(method, config, num_layers)
    if groups:
        whole = _every_linear(config)
        if whole:
            return Quantization(whole, groups, kv_dtype_bytes=cache)
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
        cause = f"pdctl does not know {what}"
        if unmatched:
            cause = f"The quantisation config names {unmatched[:60]!r}, which pdctl does not know"
        note = f"{cause}; the weights are counted as bf16."
        return Quantization(Format(label, 2.0, "bf16"), kv_dtype_bytes=cache, notes=(note,))
    names = config.texts(
        "modules_to_not_convert",
        "ignore",
        "ignored_layers",
        "exclude_modules",
        "exclude",
        "llm_int8_skip_modules",
    )
    kept, notes = _kept(method, names, num_layers)
    named: list[tuple[Selection, Format | None]] = [(one, None) for one in kept]
    named += _exceptions(method, config, num_layers)
    if found is MXFP4:  # in transformers only experts are ever stored so
        named.append((_NOT_EXPERTS, None))
    return Quantization(
        found, tuple(named), kv_dtype_bytes=cache, notes=notes, block=_block(config)
    )


def _flat(config: Fields) -> Fields:
    """The keys of ModelOpt's own file, and of HQQ's settings, beside the others."""
    inner = config.part("quantization", "quant_config")
    inner = inner.part("weight_quant_params") or inner if inner else None
    return Fields({**inner.values, **config.values}, config.file) if inner else config


def _exceptions(
    method: str, config: Fields, num_layers: int
) -> list[tuple[Selection, Format | None]]:
    """Formats of the matrices that GPTQ, AutoRound and Quark set apart, by the names they match.

    Source: GPTQModel's `dynamic`, AutoRound's `extra_config`, Quark's `layer_quant_config`; sglang
    0.5.23 layers/quantization/w4afp8.py.
    """
    if "w4afp8" in method:
        return [(_EXPERTS, int4("w4afp8", 128, zero_points=False))]
    names: dict[Format | None, list[str]] = {}
    for key in ("dynamic", "extra_config", "layer_quant_config"):
        part = config.part(key)
        for name, said in list(part.values.items())[:_MOST_NAMES] if part else ():
            own = Fields({**config.values, **(said if isinstance(said, dict) else {})}, config.file)
            keeps = name.startswith("-:") or own.raw("bits") == 16
            names.setdefault(None if keeps else _format(method, own), []).append(name[:500])
    return [(one, form) for form, said in names.items() for one in selections(said, num_layers)]


def _block(config: Fields) -> int | None:
    """Rows and columns of weights that share a scale; None: the config does not say."""
    sizes = config.values.get("weight_block_size")
    if not isinstance(sizes, list) or not all(isinstance(n, int) and n > 0 for n in sizes):
        return None
    return max(sizes, default=None)


def _keeps_fp8_cache(method: str, config: Fields) -> bool:
    """True if a release makes SGLang's `--kv-cache-dtype auto` an FP8 cache. No other is made so.

    Source: sglang 0.5.23 kv_cache_dtype.py, modelopt_quant.py, compressed_tensors.py (whose scales
    have to be in the file, one for each tensor).
    """
    if method in _INTEGERS or method in _BY_WORD or method == "bitsandbytes":
        return False
    said = (config.text("kv_cache_quant_algo") or "").upper() == "FP8"
    scheme = config.part("kv_cache_scheme")
    if scheme is None or method == "fp8":
        return said
    is_fp8 = scheme.raw("type") == "float" and scheme.raw("num_bits") == 8
    if method != "compressed-tensors":
        return said or is_fp8
    scales = scheme.raw("strategy") == "tensor" and scheme.raw("symmetric") is not False
    return is_fp8 and scales and not scheme.raw("dynamic")


def _groups(
    method: str, config: Fields, num_layers: int
) -> tuple[tuple[Selection, Format | None], ...]:
    """The format of each matrix where a config names several, or names what it quantises."""
    layers = config.part("quantized_layers")
    if layers is not None:
        return _by_layer(layers, num_layers)
    found: list[tuple[Selection, Format | None]] = []
    for group in _config_groups(config):
        targets, weights = group.texts("targets"), group.part("weights")
        if any(map(_is_linear, targets)):
            continue
        if not weights:
            return ()
        form = _weights_format(weights)
        found += [(one, form) for one in selections(targets[:_MOST_NAMES], num_layers)]
    kept, _ = _kept(method, config.texts("ignore"), num_layers)
    return tuple([(one, None) for one in kept] + found) if found else ()


def _config_groups(config: Fields) -> Iterator[Fields]:
    """The groups of a compressed-tensors config; one that is no object has nothing in it."""
    groups = config.part("config_groups")
    for value in groups.values.values() if groups else ():
        yield Fields(value if isinstance(value, dict) else {}, config.file)


def _is_linear(target: str) -> bool:
    return target.endswith("Linear")


def _every_linear(config: Fields) -> Format | None:
    """The format of the group that means every matrix no other group names; None: no such group.

    Source: sglang 0.5.23 compressed_tensors/utils.py: a name goes before a class.
    """
    for group in _config_groups(config):
        weights = group.part("weights")
        if weights and any(map(_is_linear, group.texts("targets"))):
            return _weights_format(weights)
    return None


def _unmatched(config: Fields) -> str:
    """The first of the names that a config quantises, where it names matrices or layers.

    Ask after _groups has found none that exists; "" where the config means every matrix.
    """
    layers = config.part("quantized_layers")
    names = list(layers.values) if layers else []
    for group in _config_groups(config):
        targets = group.texts("targets")
        if any(map(_is_linear, targets)):
            return ""
        names += targets
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
    if method.startswith("quark") and config.part("global_quant_config"):
        return _quark(config)
    if "mxfp4" in method:
        return MXFP4
    if method in _INTEGERS:
        return _rounded(method, config)
    if method == "compressed-tensors":
        return _compressed(config)
    if method.startswith("modelopt") or "nvfp4" in method:
        return _modelopt(method, config)
    if method == "bitsandbytes":
        return INT8 if config.flag("load_in_8bit") else int4(method, 64, zero_points=False)
    said = config.raw(_BY_WORD[method]) if method in _BY_WORD else method
    return _worded(str(said or "").lower())


_INTEGERS = frozenset(
    ("awq", "gptq", "auto-round", "awq_marlin", "gptq_marlin", "moe_wna16", "marlin", "hqq")
)
_BY_WORD = {"torchao": "quant_type", "quanto": "weights", "fp_quant": "forward_dtype"}
_WORDS = (
    ("mxfp4", MXFP4_WEIGHTS),
    ("nvfp4", NVFP4),
    ("mxfp8", MXFP8),
    ("float8", FP8),
    ("fp8", FP8),
    ("int8", INT8),
    ("int4", int4("int4", 128, zero_points=True)),
)


def _worded(said: str) -> Format | None:
    """The format that a setting names somewhere in its text."""
    return next((form for word, form in _WORDS if word in said), None)


def _rounded(method: str, config: Fields) -> Format:
    """Integers of few bits in groups; with AutoRound also floats."""
    floats = {"mx_fp": MXFP4_WEIGHTS, "nv_fp": NVFP4, "fp": FP8}
    found = floats.get((config.text("data_type") or "int").lower().rstrip("48"))
    bits = config.maybe_count("bits", "w_bit", "nbits", least=1, most=16) or 4
    if found is not None:
        return FP8 if bits == 8 else found
    group = config.maybe_count("group_size", "q_group_size", least=-1) or 128
    if bits == 8:
        return INT8
    return _integers(f"{method} int{bits}", bits, max(group, 32) if group > 0 else 4096)


def _integers(label: str, bits: int, group: int) -> Format:
    return Format(label, (bits + (16 + bits) / group) / 8, "bf16")


def _quark(config: Fields) -> Format | None:
    """The format of AMD Quark's weights: one level of scales, or NVFP4's two.

    Source: Quark's global_quant_config and layer_quant_config, as sglang 0.5.23 reads them.
    """
    whole = config.part("global_quant_config")
    said = config.raw("weight") or (whole.raw("weight") if whole else None)  # of a layer, of all
    levels = said if isinstance(said, list) else [said]
    weight = Fields(levels[0] if levels and isinstance(levels[0], dict) else {}, config.file)
    kind = (weight.text("dtype") or "").lower()
    if "fp4" in kind:
        return NVFP4 if len(levels) > 1 else MXFP4_WEIGHTS
    if "int4" in kind:
        return int4(
            "quark int4", max(weight.maybe_count("group_size") or 128, 32), zero_points=True
        )
    return FP8 if "fp8" in kind else INT8 if "int8" in kind else None


def _compressed(config: Fields) -> Format | None:
    groups = config.part("config_groups")
    first = next((v for v in groups.values.values() if isinstance(v, dict)), {}) if groups else {}
    weights = Fields(first, config.file).part("weights")
    return _every_linear(config) or (_weights_format(weights) if weights else None)


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


def _kept(
    method: str, names: Iterable[str], num_layers: int
) -> tuple[list[Selection], tuple[str, ...]]:
    names = tuple(names)[:_MOST_NAMES]
    if method == "compressed-tensors":  # whose files list parents of matrices, to no effect
        names = tuple(name for name in names if name.startswith("re:") or is_module(name))
    found = selections(names, num_layers)
    outside = [n for n in names if layers_in(n, num_layers) == frozenset()]
    if names and len(outside) == len(names):
        return found, (
            f"The quantisation config names only layers that do not exist, such as "
            f"{outside[0][:60]!r}; nothing is kept in 16 bits.",
        )
    return found, ()


_NOT_EXPERTS = Selection(None, frozenset(("attention", "state", "mlp", "shared")), None)
_EXPERTS = Selection(None, frozenset(("experts",)), None)
EXPERTS_FP4 = (
    _EXPERTS,
    Format("fp4 experts", 4.25 / 8, "fp8"),
)
