"""Reads a file that describes a kind of GPU: at least its name and its memory bandwidth."""

from collections.abc import Callable
from pathlib import Path
from statistics import median

from pdctl.deployment.records import PlannedFor
from pdctl.deployment.strict_yaml import Field, read_yaml
from pdctl.inspection.cluster import gpu_model, known_gpu_names
from pdctl.inspection.records import GpuModel
from pdctl.units import GB, GIB

# key in the file: unit
_UNITS = {
    "memory_gib": GIB,
    "bandwidth_gb_per_s": GB,
    "bf16_tflops": 1e12,
    "fp8_tflops": 1e12,
    "fp4_tflops": 1e12,
    "peer_gb_per_s": GB,
    "pcie_gb_per_s": GB,
}
KEYS = ("name", *_UNITS, "source")
_ABSENT = ("fp8_tflops", "fp4_tflops", "peer_gb_per_s")  # taken to be absent where not given


def read_gpu_file(path: Path) -> GpuModel:
    """The kind of GPU that a file describes, with sentences about what had to be assumed.

    Rates are dense, per GPU, and per direction, as in profiles/gpus.json. A rate that is not
    given is the median of the known kinds, in proportion to their bandwidth.
    Raises InvalidInput naming the line for an unknown key, a value of a size that no GPU has, or
    a file without a name or a bandwidth.
    """
    top = read_yaml(path, hint=_HINT)
    fields = top.mapping(KEYS)
    for key in ("name", "bandwidth_gb_per_s"):
        if key not in fields:
            raise top.problem(
                f"{key} is missing", hint=f"add a line such as {key}: {_EXAMPLE[key]}"
            )
    name = fields["name"].text()
    if ":" in name:
        raise fields["name"].problem(
            f"must have no colon, not {name!r}", hint="in --gpus a colon stands before rdma"
        )
    given = {key: _number(fields[key], key) * unit for key, unit in _UNITS.items() if key in fields}
    bandwidth = given["bandwidth_gb_per_s"]
    source = fields["source"].text() if "source" in fields else str(path)
    return GpuModel(
        name=name,
        memory_bytes=given.get("memory_gib") or bandwidth * _typical(lambda m: m.memory_bytes),
        bandwidth_bytes_per_s=bandwidth,
        bf16_flops=given.get("bf16_tflops") or bandwidth * _typical(lambda m: m.bf16_flops),
        fp8_flops=given.get("fp8_tflops"),
        fp4_flops=given.get("fp4_tflops"),
        peer_bytes_per_s=given.get("peer_gb_per_s"),
        pcie_bytes_per_s=given.get("pcie_gb_per_s")
        or bandwidth * _typical(lambda m: m.pcie_bytes_per_s),
        source=source,
        guesses=tuple(_guesses(name, given)),
        file=str(path.resolve()),
    )


def planned_kind(gpus: str, planned: PlannedFor | None) -> GpuModel | None:
    """The kind of GPU that a file describes, where these are the GPUs of a plan made with one."""
    file = planned.file_of(gpus) if planned else None
    return read_gpu_file(Path(file)) if file else None


_EXAMPLE = {"name": "my-gpu", "bandwidth_gb_per_s": "3350"}
_HINT = "two lines are enough: " + " and ".join(f"{k}: {v}" for k, v in _EXAMPLE.items())
# In the key's unit: what no GPU is below or above, so that a TB/s taken for a GB/s is seen.
_LEAST = {"bandwidth_gb_per_s": 10.0}
_MOST = {"bandwidth_gb_per_s": 1e5}
_MOST_OF_ANY = 1e6


def _number(field: Field, key: str) -> float:
    value, least, most = field.number(), _LEAST.get(key, 0.0), _MOST.get(key, _MOST_OF_ANY)
    if value <= 0:
        raise field.problem(f"must be above zero, not {field.text()!r}")
    if not least <= value <= most:
        raise field.problem(
            f"must be from {least:,.0f} to {most:,.0f}, not {field.text()!r}",
            hint="the unit is in the key: 3.35 TB/s are bandwidth_gb_per_s: 3350",
        )
    return value


def _typical(of: Callable[[GpuModel], float]) -> float:
    """The median over the known kinds of a figure per byte/s of bandwidth."""
    models = [model for name in known_gpu_names() if (model := gpu_model(name)) is not None]
    return median(of(model) / model.bandwidth_bytes_per_s for model in models)


def _guesses(name: str, given: dict[str, float]) -> list[str]:
    """Sentences about what a plan for this kind rests on."""
    notes = [f"The shares of its rates that kernels reach on {name} are assumed."]
    lacking = [key for key in _UNITS if key not in given]
    if assumed := [key for key in lacking if key not in _ABSENT]:
        notes.append(
            f"Assumed for {name} in proportion to its bandwidth, as known GPUs have it: "
            f"{', '.join(assumed)}."
        )
    if absent := [key for key in lacking if key in _ABSENT]:
        notes.append(f"Assumed to be absent on {name}: {', '.join(absent)}.")
    return notes
