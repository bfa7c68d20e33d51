"""Stands in for SGLang's compiled CPU kernels, of which no registry carries a wheel.

SGLang imports their names when it starts and, finding no compiled operators, computes with torch.
Two are called all the same and are written out here; any other fails when called, by name.
"""

import ctypes
import sys
from collections.abc import Callable
from typing import Any, NoReturn


def assign_req_to_token_pool_cpu(
    requests: Any, table: Any, starts: Any, ends: Any, locations: Any, _: int
) -> None:
    """Write each request's next KV locations into its row of the table, from start to end."""
    taken = 0
    rows = zip(requests.tolist(), starts.tolist(), ends.tolist(), strict=True)
    for request, start, end in rows:
        part = locations[taken : taken + end - start]
        table[request, start:end] = part.to(table.dtype)
        taken += end - start


def copy_all_layer_kv_cache_cpu(layers: Any, strides: Any, targets: Any, sources: Any) -> None:
    """Copy KV of the source locations to the target ones in every layer; the two may overlap."""
    to, of = targets.tolist(), sources.tolist()
    for base, stride in zip(layers.tolist(), strides.tolist(), strict=True):
        held = [ctypes.string_at(base + location * stride, stride) for location in of]
        for location, content in zip(to, held, strict=True):
            ctypes.memmove(base + location * stride, content, stride)


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("_") or not name.endswith("_cpu"):
        raise AttributeError(name)

    def absent(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} has no stand-in")

    return absent


sys.modules[f"{__name__}.mamba"] = sys.modules[__name__]
