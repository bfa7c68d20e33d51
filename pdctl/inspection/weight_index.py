"""The parameters that a checkpoint's own index counts, to check the shape that was read."""

import re
from pathlib import Path

INDEX = "model.safetensors.index.json"
_HEAD_BYTES = 4096  # its metadata comes first
# Shares by which the index may differ: what the shape leaves out is beside the language model
# (vision towers) or after it (multi-token prediction); scales are counted by the format's rule.
_MOST_READ = 1.05
_MOST_LEFT_OUT = 1.12
_MOST_LEFT_OUT_WRAPPED = 1.4
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")


def index_note(folder: Path, weight_bytes: float, *, wrapped: bool) -> str | None:
    """A sentence where the index counts other weights than the shape; None: it agrees or is absent.

    weight_bytes: of the shape that was read. wrapped: the model has vision or audio towers.
    """
    counted = _total_size(folder / INDEX)
    if counted is None or not weight_bytes:
        return None
    most = _MOST_LEFT_OUT_WRAPPED if wrapped else _MOST_LEFT_OUT
    if weight_bytes / _MOST_READ <= counted <= weight_bytes * most:
        return None
    return (
        f"{INDEX} counts {counted / 1e9:,.1f} GB of weights, and the layers read from config.json "
        f"come to {weight_bytes / 1e9:,.1f} GB; parameters, KV and step times may be off."
    )


def missing_shards_note(folder: Path) -> str | None:
    """A sentence where `folder` lacks files of weights that the others name; None: it has all."""
    found = [match for file in folder.glob("*.safetensors") if (match := _SHARD.search(file.name))]
    if not found:
        return None
    total = max(int(match[2]) for match in found)
    missing = total - len({match[1] for match in found})
    if missing <= 0:
        return None
    return f"{missing} of {total} weight files are missing in {folder}; SGLang cannot load it."


def _total_size(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    found = re.search(rb'"total_size"\s*:\s*(\d{1,18})\b', head)
    return int(found[1]) if found else None
