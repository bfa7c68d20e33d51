"""The matrices of an LLM that the names in a quantisation config stand for. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from pdctl.inspection.layers import Part


@dataclass(frozen=True)
class Selection:
    """Matrices that names of modules mean. None: any layer, part or leaf."""

    layers: frozenset[int] | None
    parts: frozenset[Part] | None
    leaves: frozenset[str] | None

    def has(self, layer: int | None, part: Part, leaf: str) -> bool:
        """Does it mean this matrix? layer None: one outside the layers."""
        if layer is None and self.parts is None:
            return False
        return (
            (self.layers is None or layer in self.layers)
            and (self.parts is None or part in self.parts)
            and (self.leaves is None or leaf in self.leaves)
        )


def selections(names: Iterable[str], num_layers: int) -> list[Selection]:
    """The meaning of `names` (module names, globs, "re:..." patterns), merged over layers.

    The patterns are only searched for words: a file of unknown origin wrote them. Those of a
    layer's number are run where nothing in them repeats.
    """
    layers: dict[tuple[frozenset[Part] | None, frozenset[str] | None], set[int] | None] = {}
    for name in names:
        plain = name.replace("\\", "")
        meant = _meaning(_NUMBER.sub(".0", plain.lower()))
        where = layers_in(plain, num_layers)
        if meant is None or where == frozenset():
            continue
        if where is None:
            if meant != (None, None):
                layers[meant] = None
        elif (known := layers.setdefault(meant, set())) is not None:
            known |= where
    return [
        Selection(None if found is None else frozenset(found), parts, leaves)
        for (parts, leaves), found in layers.items()
    ]


def layers_in(name: str, num_layers: int) -> frozenset[int] | None:
    """The layers a name means: None: all of them; empty: none that exists."""
    match = re.search(_LAYER, name.replace("\\", ""))
    return _numbers(match.group(1), num_layers) if match else None


@lru_cache(maxsize=1_000)
def _numbers(pattern: str, num_layers: int) -> frozenset[int] | None:
    """The layers whose number a pattern of digits, classes and alternatives is; None: all."""
    if pattern.isdigit():
        return frozenset((int(pattern),)) if int(pattern) < num_layers else frozenset()
    try:
        number = re.compile(pattern)
    except re.error:
        return None
    return frozenset(n for n in range(num_layers) if number.fullmatch(str(n)))


def is_module(name: str) -> bool:
    """True if a plain name is that of a matrix, or of all experts, and not of what holds some."""
    last = name.lower().rpartition(".")[2]
    if last == "experts" or re.search(_NO_MATRIX, name.lower()):
        return True
    _, leaves = _meaning(last) or (None, None)
    return leaves is not None or any(re.search(word, last) for word in ("head", "embed|wte"))


@lru_cache(maxsize=10_000)
def _meaning(name: str) -> tuple[frozenset[Part] | None, frozenset[str] | None] | None:
    """The parts and leaves a module's name means; None: no matrix of the language model."""
    if re.search(_NO_MATRIX, name) or any(word in name for word in _OTHER_MODELS):
        return None
    part = next((part for word, part in _PARTS if re.search(word, name)), None)
    leaves = next((leaves for word, leaves in _LEAVES if re.search(word, name)), None)
    parts = frozenset((part,)) if part else None
    if part is None and leaves is not None:
        parts = frozenset(_MLP_PARTS if leaves & _MLP_LEAVES else _MIXER_PARTS)
    if part == "attention" and leaves is None:
        return parts, None
    if part == "mlp" and leaves is None:  # all that the module holds
        return frozenset(_MLP_PARTS), None
    known = part is not None or leaves is not None or re.search(_LAYER, name) is not None
    return (parts, leaves) if known else None


_MLP_PARTS: tuple[Part, ...] = ("mlp", "experts", "shared")
_MIXER_PARTS: tuple[Part, ...] = ("attention", "state")
_MLP_LEAVES = frozenset(("up", "down", "gate"))
_NUMBER = re.compile(r"\.\d+(?=\.|$)")  # of layers and experts, which mean the same
_DIGITS = r"(?:\d|\[[\d-]{1,30}\])+"  # 7, 1[0-9]
_CHOICE = rf"\((?:\?:)?{_DIGITS}(?:\|{_DIGITS})*\)"
_LAYER = rf"(?:layers|blocks|h)\.({_DIGITS}|{_CHOICE})(?=$|[^\w+*?{{\[])"
_NO_MATRIX = (
    r"norm|bias|a_log|\bd$|conv1d|conv\d?$|mlp\.gate\W*$|mixer\.gate\W*$|router|"
    r"shared_expert_gate|^\W*(re:)?\W*gate\W*$|block_sparse_moe\.gate\W*$|e_score"
)
_OTHER_MODELS = ("visual", "vision", "audio", "projector", "mtp", "vit.", "image")
_PARTS: tuple[tuple[str, Part], ...] = (
    ("shared_(expert|mlp)|latent_proj|share_expert", "shared"),
    ("experts|block_sparse_moe|moe", "experts"),
    ("linear_attn|mamba|kda", "state"),
    ("attn|attention", "attention"),
    ("lm_head", "head"),
    ("embed|wte", "embedding"),
    ("mlp|feed_forward|ffn", "mlp"),
)
_LEAVES: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (word, frozenset(leaves.split()))
    for word, leaves in (
        ("indexer", "index"),
        ("compressor", "compressor"),
        (r"fused_qkv_a", "q_a kv_a"),
        (r"\b(q_a|wq_a)", "q_a"),
        (r"\b(q_b|wq_b)", "q_b"),
        (r"\b(kv_a|wkv)\b|\bkv_a_", "kv_a"),
        (r"\bkv_b", "kv_b"),
        (r"qkv_proj|\bqkv\b|wqkv|query_key_value|c_attn", "q k v"),
        (r"\b(q_proj|wq)\b", "q"),
        (r"\b(k_proj|wk)\b", "k"),
        (r"\b(v_proj|wv)\b", "v"),
        (r"\b(o_proj|wo)\b|\bdense\b", "o"),
        (r"\bwo_a\b|o_a_proj", "o_a"),
        (r"\bwo_b\b|o_b_proj", "o_b"),
        (r"in_proj_qkvz", "in_qkv in_z"),
        (r"in_proj_qkv", "in_qkv"),
        (r"in_proj_z", "in_z"),
        (r"in_proj_(ba|a|b)\b", "in_ba"),
        (r"[fg]_[ab]_proj|\bb_proj", "in_gates"),
        (r"in_proj", "in in_qkv in_z in_ba"),
        (r"out_proj", "out o"),
        (r"fc1_latent_proj", "in"),
        (r"fc2_latent_proj", "out"),
        (r"\(gate\|up\|gate_up\|down\)_proj", "up gate down"),
        (r"gate_up_proj|\bw13\b", "up gate"),
        (r"gate_proj|\bw1\b", "gate"),
        (r"up_proj|\bw3\b|fc1", "up"),
        (r"down_proj|\bw2\b|fc2", "down"),
    )
)
