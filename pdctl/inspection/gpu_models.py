"""Kinds of GPU pdctl has datasheet figures for, and the names they go by."""

import json
from functools import cache
from typing import Any

from pdctl.errors import InvalidInput
from pdctl.inspection.profiles_dir import profiles_dir
from pdctl.inspection.records import GpuModel
from pdctl.units import GB, MIB

_BRANDS = ("nvidia", "amdinstinct", "geforce")


def gpu_model(name: str) -> GpuModel | None:
    """The kind of GPU that `name` means, or None.

    name: as a person types it ("h100", "RTX 4090") or as NVML gives it ("NVIDIA H100 80GB HBM3").
    Source: each record's `source`; figures in profiles/gpus.json.
    """
    return _models().get(_plain(name))


def known_gpu_names() -> tuple[str, ...]:
    """The kinds of GPU there are figures for, one name each."""
    return tuple(dict.fromkeys(model.name for model in _models().values()))


def require_gpu_model(name: str) -> GpuModel:
    """Like gpu_model, but InvalidInput that says which are known."""
    model = gpu_model(name)
    if model is None:
        raise InvalidInput(
            f"--gpus: there are no figures for a GPU named {name[:60]!r}; "
            f"known are {', '.join(known_gpu_names())}.",
            hint=f"--gpus 8x{nearest_gpu_name(name)}",
            code="unknown_gpu",
        )
    return model


def nearest_gpu_name(name: str) -> str:
    """The known name most like `name`, for a hint."""
    import difflib

    plain = {_plain(known): known for known in known_gpu_names()}
    close = difflib.get_close_matches(_plain(name[:60]), plain, n=1, cutoff=0.3)
    return plain[close[0]] if close else "H200"


def _plain(name: str) -> str:
    text = "".join(c for c in name.lower() if c.isalnum())
    for brand in _BRANDS:
        text = text.removeprefix(brand)
    return text


@cache
def _models() -> dict[str, GpuModel]:
    rows = json.loads((profiles_dir() / "gpus.json").read_text(encoding="utf-8"))["gpus"]
    models: dict[str, GpuModel] = {}
    for row in rows:
        model = _from_row(row)
        models.update((_plain(name), model) for name in (row["name"], *row["aliases"]))
    return models


def _from_row(row: dict[str, Any]) -> GpuModel:
    return GpuModel(
        name=row["name"],
        memory_bytes=row["memory_mib"] * MIB,
        bandwidth_bytes_per_s=row["bandwidth_gb_per_s"] * GB,
        bf16_flops=row["bf16_tflops"] * 1e12,
        fp8_flops=_scaled(row["fp8_tflops"], 1e12),
        fp4_flops=_scaled(row["fp4_tflops"], 1e12),
        peer_bytes_per_s=_scaled(row["peer_gb_per_s"], GB),
        pcie_bytes_per_s=row["pcie_gb_per_s"] * GB,
        source=row["source"],
    )


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit
