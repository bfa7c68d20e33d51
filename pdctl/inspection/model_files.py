"""Find a model's config.json by the name a user gives: a directory, a cached id, a bundled name.

Nothing here ever asks the network.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pdctl.errors import InvalidInput
from pdctl.inspection.releases import release
from pdctl.paths import profiles_dir

MAX_BYTES = 16 * 1024 * 1024
LARGEST = 10_000_000  # of any size in a model's shape


class Fields:
    """The keys of one JSON object, with errors that name the file and the key."""

    def __init__(self, values: Mapping[str, Any], file: str) -> None:
        self.values = values
        self.file = file
        self.seen: set[str] = set()  # the keys somebody asked for

    def raw(self, key: str) -> Any:
        """The value under `key`, or None."""
        self.seen.add(key)
        return self.values.get(key)

    def at(self, index: int, *keys: str, least: int = 1, most: int = LARGEST) -> int | None:
        """The number for one layer: like maybe_count, but the value may be a list."""
        for key in keys:
            value = self.raw(key)
            if isinstance(value, list) and value:
                if index >= len(value):
                    raise self.wrong(key, f"names {len(value)} layers, and there are more")
                value = value[index]
            if value is not None:
                self.seen.update(keys)
                return Fields({key: value}, self.file).maybe_count(key, least=least, most=most)
        return None

    def count(self, *keys: str, least: int = 1, most: int = LARGEST) -> int:
        """The whole number under the first of `keys` present. Raises InvalidInput if none is."""
        found = self.maybe_count(*keys, least=least, most=most)
        if found is None:
            raise self.wrong(keys[0], "is missing")
        return found

    def maybe_count(self, *keys: str, least: int = 1, most: int = LARGEST) -> int | None:
        """The whole number under the first of `keys` that is present, or None."""
        self.seen.update(keys)
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, bool) or not isinstance(value, int):
                raise self.wrong(key, f"must be a whole number, not {shown(value)}")
            if not least <= value <= most:
                raise self.wrong(key, f"must be {least} to {most}, not {shown(value)}")
            return value
        return None

    def text(self, key: str) -> str | None:
        value = self.raw(key)
        return value if isinstance(value, str) and value else None

    def texts(self, *keys: str) -> tuple[str, ...]:
        """The strings of the first of `keys` that holds a list or an object of them."""
        for key in keys:
            value = self.raw(key)
            if isinstance(value, list | dict) and value:
                return tuple(v for v in value if isinstance(v, str))
        return ()

    def flag(self, key: str) -> bool | None:
        value = self.raw(key)
        return value if isinstance(value, bool) else None

    def part(self, *keys: str) -> "Fields | None":
        """The object under the first of `keys` that holds one."""
        for key in keys:
            value = self.raw(key)
            if isinstance(value, dict):
                return Fields(value, self.file)
        return None

    def overlaid(self, values: Mapping[str, Any]) -> "Fields":
        """A copy in which `values` replace these keys. Both copies share the set of keys seen."""
        changed = Fields({**self.values, **values}, self.file)
        changed.seen = self.seen
        return changed

    def wrong(self, key: str, problem: str) -> InvalidInput:
        return InvalidInput(
            f"{self.file}: key {key!r} {problem}.",
            hint="pdctl plan with a bundled name, for example qwen3-32b, or repair the file",
            code="bad_config_json",
        )


def shown(value: object) -> str:
    """`value` as text short enough for an error message. Huge integers are not converted."""
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of more than 38 digits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_fields(path: Path) -> Fields:
    """The object in a JSON file. Raises InvalidInput if it is unreadable or cut off."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError("it is larger than 16 MiB")
        values = json.loads(content)
    except OSError as problem:
        raise _unreadable(path, problem.strerror or str(problem)) from None
    except (ValueError, RecursionError) as problem:
        raise _unreadable(path, _json_problem(problem)) from None
    if not isinstance(values, dict):
        raise _unreadable(path, f"it holds {shown(values)} instead of an object")
    return Fields(values, str(path))


def _json_problem(problem: Exception) -> str:
    if isinstance(problem, json.JSONDecodeError):
        at = f"line {problem.lineno} column {problem.colno}"
        cut = problem.doc.rstrip()[problem.pos :].strip() == "" or "Unterminated" in problem.msg
        return f"it is cut off at {at}" if cut else f"it is not JSON at {at}: {problem.msg}"
    if isinstance(problem, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    return str(problem)[:80]


def _unreadable(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} cannot be used: {why}.",
        hint="copy config.json again, or pdctl plan with a bundled name such as qwen3-32b",
        code="bad_config_json",
    )


_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "hidden_dim": "intermediate_size",
    "tied_embeddings": "tie_word_embeddings",
    "max_seq_len": "max_position_embeddings",
    "vision_encoder": "vision_config",
}
_MOE_NAMES = {
    "num_experts": "n_routed_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "expert_hidden_dim": "moe_intermediate_size",
    "num_shared_experts": "n_shared_experts",
    "first_k_dense_replace": "first_k_dense_replace",
    "route_every_n": "moe_layer_freq",
}


def is_params(fields: Fields) -> bool:
    """True if the object uses the key names of Mistral's params.json."""
    return "n_layers" in fields.values and "dim" in fields.values


def from_params(fields: Fields) -> Fields:
    """The same object with the key names of a config.json.

    Source: sglang 0.5.23 srt/utils/mistral_utils.py.
    """
    values: dict[str, Any] = {_NAMES.get(k, k): v for k, v in fields.values.items()}
    experts = values.pop("moe", None)
    latent = values.get("kv_lora_rank") is not None
    if isinstance(experts, dict):
        values |= {_MOE_NAMES[k]: v for k, v in experts.items() if k in _MOE_NAMES}
    values["model_type"] = "mistral_large_3" if latent else "mistral"
    values["architectures"] = ["MistralLarge3ForCausalLM" if latent else "MistralForCausalLM"]
    stored = values.pop("quantization", None)
    if isinstance(stored, dict):
        values["quantization_config"] = _quantization(stored)
    return Fields(values, fields.file)


def _quantization(stored: dict[str, Any]) -> dict[str, Any]:
    groups = stored.get("config_groups")
    if groups is not None:  # compressed-tensors, as in config.json
        return {"quant_method": "compressed-tensors", **stored}
    name = str(stored.get("qformat_weight") or "")
    return {**stored, "quant_method": "fp8" if name.startswith("fp8") else name}


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_CONFIGS = ("config.json", "params.json")


@dataclass(frozen=True)
class ModelFile:
    """A config.json that was found. bundled: the name of the bundled shape, if it is one."""

    config: Path
    name: str
    path: str | None
    bundled: str | None = None
    quantised_as: str | None = None  # what the name adds to a bundled shape: "fp8", "awq"
    max_context: int | None = None  # of a release that has another than the bundled shape


def absolute_model(model: str) -> str:
    """A model's folder as an absolute path, valid from any working directory."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if model and (folder / "config.json").is_file() else model


@cache
def bundled_names() -> tuple[str, ...]:
    """The models `pdctl plan NAME` knows without a download."""
    return tuple(sorted(file.stem for file in (profiles_dir() / "models").glob("*.json")))


def cached_names() -> tuple[str, ...]:
    """The models in the local Hugging Face cache that have a config.json: Qwen/Qwen3-32B."""
    configs = _cache_dir(os.environ).glob("models--*/snapshots/*/config.json")
    folders = {config.parents[2].name.removeprefix("models--") for config in configs}
    return tuple(sorted(folder.replace("--", "/") for folder in folders))


def find_model(model: str) -> ModelFile:
    """The config.json of `model`. InvalidInput, with the nearest name, when there is none."""
    if not model.strip():
        raise InvalidInput("The model's name is empty.", hint="pdctl plan qwen3-32b")
    found = _in_directory(model) or _in_cache(model) or _bundled(model)
    if found is None:
        raise _not_found(model)
    return found


def _in_directory(model: str) -> ModelFile | None:
    folder = os.path.expanduser(model)
    if os.path.basename(folder) in _CONFIGS and os.path.isfile(folder):
        folder = os.path.dirname(folder) or "."
    if not os.path.isdir(folder):
        return None
    config = _config_in(Path(folder))
    if config is not None:
        return ModelFile(config, Path(folder).resolve().name or folder, folder)
    if _bundled(model) is not None:  # an unrelated folder of the same name
        return None
    raise InvalidInput(
        f"{model} is a directory without config.json.",
        hint=f"pdctl plan with the directory that holds the weights, or {_example(model)}",
        code="no_config_json",
    )


def cache_folder(model: str, env: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of a model id in the Hugging Face cache; None for anything else.

    env: the variables that say where the cache is.
    """
    if not _HUB_ID.fullmatch(model) or model.lower() in bundled_names():
        return None
    return _cache_dir(env) / f"models--{model.replace('/', '--')}"


def cached_revision(folder: Path) -> str:
    """The revision that a model's folder in the Hugging Face cache has as main; "" without one."""
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
    return revision if re.fullmatch(r"[\w.-]+", revision) else ""


def _in_cache(model: str) -> ModelFile | None:
    folder = cache_folder(model)
    if folder is None:
        return None
    snapshots, revision = folder / "snapshots", cached_revision(folder)
    candidates = [snapshots / revision] if revision else []
    candidates += sorted(snapshots.glob("*"), reverse=True) if os.path.isdir(snapshots) else []
    for candidate in candidates:
        config = _config_in(candidate)
        if config is not None:
            return ModelFile(config, model.rsplit("/", 1)[-1], model)
    return None


def _config_in(folder: Path) -> Path | None:
    """config.json, or Mistral's params.json where it is alone."""
    files = (folder / name for name in _CONFIGS)
    return next((file for file in files if os.path.isfile(file)), None)


def _cache_dir(env: Mapping[str, str]) -> Path:
    """The cache directory of huggingface_hub."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(variable):
            return Path(env[variable]).expanduser()
    home = env.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    cache_home = env.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache_home) / "huggingface" / "hub"


def _bundled(model: str) -> ModelFile | None:
    if not _HUB_ID.fullmatch(model):
        return None
    exact = model.lower()
    if exact in bundled_names():
        return ModelFile(_bundled_config(exact), exact, None, exact)
    found = release(exact.rsplit("/", 1)[-1], bundled_names())
    if found is None:
        return None
    path = model if "/" in model else None
    shape = found.shape
    config = _bundled_config(shape)
    return ModelFile(config, shape, path, shape, found.quantised_as, found.max_context)


def _bundled_config(shape: str) -> Path:
    return profiles_dir() / "models" / f"{shape}.json"


def _example(model: str) -> str:
    return next(iter(_families(model)), "qwen3-32b")


def _families(model: str) -> list[str]:
    """The bundled shapes whose names are closest, of the same maker's family only."""
    import difflib

    plain = model[:200].lower().rsplit("/", 1)[-1]
    close = difflib.get_close_matches(plain, bundled_names(), n=8, cutoff=0.4)
    own = _letters(plain)
    same = [name for name in close if _letters(name) == own]
    return (same or close[:1])[:4]


def _letters(name: str) -> str:
    match = re.match(r"[a-z]*", name)
    return match.group() if match else ""


def _not_found(model: str) -> InvalidInput:
    known = bundled_names()
    shown = model if len(model) <= 80 else f"{model[:77]}..."
    if model.lower().endswith(".gguf"):
        return InvalidInput(
            f"{shown} is a GGUF file; pdctl reads config.json.",
            hint=f"pdctl plan with a directory that has config.json, or {_example(model)}",
            code="unknown_model",
        )
    close = _families(model)
    nearest = f"; closest by name: {', '.join(close)}" if close else ""
    found = f"did you mean {close[0]}?" if close else "pdctl plan --models lists them."
    return InvalidInput(
        f"{shown!r} is not a directory, a model in the local Hugging Face cache, or one of the "
        f"{len(known)} bundled models{nearest}.",
        hint=f"{found} Or name a directory that has config.json",
        code="unknown_model",
    )
