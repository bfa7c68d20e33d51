"""From what a user calls a model to its config.json: a directory, the local cache, or bundled.

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
from pdctl.paths import profiles_dir

MAX_BYTES = 16 * 1024 * 1024
LARGEST = 10_000_000  # of any size in a model's shape


class Fields:
    """The keys of one JSON object, with errors that name the file and the key."""

    def __init__(self, values: Mapping[str, Any], file: str) -> None:
        self.values = values
        self.file = file

    def count(self, *keys: str, least: int = 1, most: int = LARGEST) -> int:
        """The whole number under the first of `keys` that is there; an error if none is."""
        found = self.maybe_count(*keys, least=least, most=most)
        if found is None:
            raise self.wrong(keys[0], "is missing")
        return found

    def maybe_count(self, *keys: str, least: int = 1, most: int = LARGEST) -> int | None:
        """The whole number under the first of `keys` that is there, else None."""
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
        value = self.values.get(key)
        return value if isinstance(value, str) and value else None

    def texts(self, *keys: str) -> tuple[str, ...]:
        """The strings of the first of `keys` that holds a list or an object of them."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, list | dict) and value:
                return tuple(v for v in value if isinstance(v, str))
        return ()

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        return value if isinstance(value, bool) else None

    def part(self, *keys: str) -> "Fields | None":
        """The object under the first of `keys` that holds one."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, dict):
                return Fields(value, self.file)
        return None

    def wrong(self, key: str, problem: str) -> InvalidInput:
        return InvalidInput(
            f"{self.file}: key {key!r} {problem}.",
            hint="pdctl plan with a bundled name, for example qwen3-32b, or repair the file",
            code="bad_config_json",
        )


def shown(value: object) -> str:
    """A value short enough for an error; a huge integer is not even converted."""
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of more than 38 digits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_fields(path: Path) -> Fields:
    """The object in a JSON file. InvalidInput if it cannot be read, is cut off or no object."""
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


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Releases that share a bundled shape, after _plain has cut what every release adds.
_SAME_SHAPE = {
    "llama-3.3-70b": "llama-3.1-70b",
    "deepseek-v3.1": "deepseek-v3",
    "deepseek-v3.1-terminus": "deepseek-v3",
    "deepseek-r1-zero": "deepseek-r1",
}
# Compiled on first use: a bundled name needs neither, and start-up counts.
_RELEASE = r"-(instruct|thinking|chat|base|it|hf|bf16|\d{4}|v0\.1)(?=-|$)|^(meta-)(?=llama)"
_LONGER_CONTEXT = {"-2507": 262144, "-0905": 262144}  # Qwen3 of July, Kimi-K2 of September 2025
_QUANTISED = (
    r"-(fp8(?:-block|-dynamic)?|nvfp4|fp4|awq|gptq(?:-int4)?|int4|w4a16|quantized\.w4a16)(?=-|$)"
)


@dataclass(frozen=True)
class ModelFile:
    """A config.json found. bundled: the shape's name when it is one of ours."""

    config: Path
    name: str
    path: str | None
    bundled: str | None = None
    quantised_as: str | None = None  # what the name adds to a bundled shape: "fp8", "awq"
    max_context: int | None = None  # of a release that has another than the bundled shape


def absolute_model(model: str) -> str:
    """A model's folder as an absolute path, so that the name holds in other folders too."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if model and (folder / "config.json").is_file() else model


@cache
def bundled_names() -> tuple[str, ...]:
    """The models `pdctl plan NAME` knows without a download."""
    return tuple(sorted(file.stem for file in (profiles_dir() / "models").glob("*.json")))


def cached_names() -> tuple[str, ...]:
    """The models in the local Hugging Face cache that have a config.json: Qwen/Qwen3-32B."""
    configs = _cache_dir().glob("models--*/snapshots/*/config.json")
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
    if os.path.basename(folder) == "config.json" and os.path.isfile(folder):
        folder = os.path.dirname(folder) or "."
    if not os.path.isdir(folder):
        return None
    config = Path(folder, "config.json")
    if os.path.isfile(config):
        return ModelFile(config, Path(folder).resolve().name or folder, folder)
    if _bundled(model) is not None:  # an unrelated folder of the same name
        return None
    raise InvalidInput(
        f"{model} is a directory without config.json.",
        hint=f"pdctl plan with the directory that holds the weights, or {_example(model)}",
        code="no_config_json",
    )


def _in_cache(model: str) -> ModelFile | None:
    if not _HUB_ID.fullmatch(model) or model.lower() in bundled_names():
        return None
    folder = _cache_dir() / f"models--{model.replace('/', '--')}"
    snapshots = folder / "snapshots"
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        revision = ""
    candidates = [snapshots / revision] if re.fullmatch(r"[\w.-]+", revision) else []
    candidates += sorted(snapshots.glob("*"), reverse=True) if os.path.isdir(snapshots) else []
    for candidate in candidates:
        if os.path.isfile(candidate / "config.json"):
            name = model.rsplit("/", 1)[-1]
            return ModelFile(candidate / "config.json", name, model)
    return None


def _cache_dir() -> Path:
    """As huggingface_hub has it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    cache_home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache_home) / "huggingface" / "hub"


def _bundled(model: str) -> ModelFile | None:
    if not _HUB_ID.fullmatch(model):
        return None
    exact = model.lower()
    if exact in bundled_names():
        return ModelFile(_bundled_config(exact), exact, None, exact)
    plain, quantised_as = _plain(model)
    shape = _SAME_SHAPE.get(plain, plain)
    if shape not in bundled_names():
        return None
    context = next((n for mark, n in _LONGER_CONTEXT.items() if mark in exact), None)
    path = model if "/" in model else None
    return ModelFile(_bundled_config(shape), shape, path, shape, quantised_as, context)


def _bundled_config(shape: str) -> Path:
    return profiles_dir() / "models" / f"{shape}.json"


def _plain(model: str) -> tuple[str, str | None]:
    """'Qwen/Qwen3-32B-Instruct-FP8' as ('qwen3-32b', 'fp8')."""
    text = model.lower().rsplit("/", 1)[-1]
    quantised = re.search(_QUANTISED, text)
    text = re.sub(_RELEASE, "", re.sub(_QUANTISED, "", text))
    return text, quantised.group(1) if quantised else None


def _example(model: str) -> str:
    plain = _plain(model[:200])[0]
    import difflib

    close = difflib.get_close_matches(plain, bundled_names(), n=1, cutoff=0.5)
    return close[0] if close else "qwen3-32b"


def _not_found(model: str) -> InvalidInput:
    known = ", ".join(bundled_names())
    shown = model if len(model) <= 80 else f"{model[:77]}..."
    if model.lower().endswith(".gguf"):
        return InvalidInput(
            f"{shown} is a GGUF file; pdctl reads config.json.",
            hint=f"pdctl plan with a directory that has config.json, or {_example(model)}",
            code="unknown_model",
        )
    return InvalidInput(
        f"{shown!r} is no directory, not in the local Hugging Face cache, "
        f"and none of the bundled models: {known}.",
        hint=f"did you mean {_example(model)}? Or name a directory that has config.json",
        code="unknown_model",
    )
