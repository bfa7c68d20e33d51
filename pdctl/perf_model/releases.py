"""What releases of SGLang changed that step times rest on: one table."""

import re
from typing import Literal

from pdctl.perf_model.records import Role

Version = tuple[int, ...]
# The newest release this table was read in; a newer one is taken for it.
NEWEST_READ = "0.5.23"
# Captures prefill in CUDA graphs at all (breakable graphs), by public runs: 0.5.9 has none.
_PREFILL_GRAPHS: Version = (0, 5, 11)
# Does so on prefill engines as well (0.5.17 still disables graphs by role; 0.5.23 does not).
_PREFILL_ENGINE_GRAPHS: Version = (0, 5, 23)
# Does so with MLA, attention-DP and all-to-all between experts as well.
_PREFILL_GRAPHS_EVERYWHERE: Version = (0, 5, 23)


def prefill_graphs(
    release: str | None, role: Role, *, attention: Literal["gqa", "mla"], attention_dp: bool
) -> bool:
    """Does an engine of this release run prefill from CUDA graphs, by default?

    release: "0.5.9"; None: the newest that was read. A nightly build without a number is taken for
    a time before them. Source: sglang arg_groups/pd_disaggregation_hook.py and
    cuda_graph_hook.py of 0.5.15 and 0.5.23, start logs of 0.5.17, public runs of 0.5.1 to 0.5.9.
    Ignores: attention backends that exclude themselves, --cuda-graph-backend-prefill.
    """
    version = numbers(release or NEWEST_READ)
    if version < _PREFILL_GRAPHS:
        return False
    if role == "prefill" and version < _PREFILL_ENGINE_GRAPHS:
        return False
    special = attention == "mla" or attention_dp
    return not special or version >= _PREFILL_GRAPHS_EVERYWHERE


def is_newer_than_read(release: str) -> bool:
    """Is the release newer than the newest of this table?"""
    return numbers(release) > numbers(NEWEST_READ)


def numbers(release: str) -> Version:
    """The numbers a release begins with; () where there is none."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", release)
    return tuple(int(part) for part in found[1].split(".")) if found else ()
