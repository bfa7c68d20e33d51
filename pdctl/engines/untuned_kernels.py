"""Say which engines run kernels that nobody has tuned for their GPU and model. Pure."""

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import PurePosixPath

MOST_LINES = 1_000  # of a log's beginning: kernels are chosen while an engine starts
_MARK = b"Config file not found at"
# "Using default MoE kernel config. Performance might be sub-optimal! Config file not found at X"
_LINE = re.compile(rb"Using default ([\w ]{1,40}?) kernel config\..* not found at (\S+?),?(?:\s|$)")


def untuned(logs: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """A sentence for each kind of kernel that runs with SGLang's default configuration.

    logs: of each engine, from its beginning.
    Source: fused_moe_triton_config.py and fp8_kernel.py of SGLang 0.4.6 to 0.5.23.
    Ignores: how much slower that is; engines whose log no longer has its beginning.
    """
    engines: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    for name, lines in logs.items():
        for kind, path in _found(lines).items():
            engines.setdefault(kind, []).append(name)
            files[kind] = PurePosixPath(path).name
    return tuple(
        f"{_named(names)} untuned {kind} kernels: SGLang has no {files[kind]}."
        for kind, names in engines.items()
    )


def _found(lines: Iterable[bytes]) -> dict[str, str]:
    """The path that was missing, by kind of kernel."""
    hits = (_LINE.search(line) for line in islice(lines, MOST_LINES) if _MARK in line)
    return {hit[1].decode(): hit[2].decode("utf-8", "replace") for hit in hits if hit}


def _named(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} runs"
    return f"{names[0]} and {len(names) - 1} more engine{'s' if len(names) > 2 else ''} run"
