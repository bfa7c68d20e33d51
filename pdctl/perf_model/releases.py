"""The changes between SGLang releases that affect step times."""

import re
from typing import Literal, NamedTuple

from pdctl.perf_model.records import Role

Version = tuple[int, ...]
# The releases this table was read in; a newer one is taken for the newest, an older for the oldest.
OLDEST_READ = "0.5.1"
NEWEST_READ = "0.5.23"


class KernelTimes(NamedTuple):
    """Seconds of kernels replayed from a CUDA graph beside their bytes, gaps included.

    small: norms, copies, attention's fixed part. product: a 16-bit matrix product. narrow_product,
    quantising: an FP8 or FP4 one, and the kernel that quantises its input.
    """

    small_s: float
    product_s: float
    narrow_product_s: float
    quantising_s: float


# Source: profiles of decode steps with SGLang 0.5.17 on H200 (docs/log.md): small kernels of 1.4 to
# 2.9 µs, cuBLAS products of 3 µs with their split-K sums, DeepGEMM of 7.6 µs and bytes at 4.6 TB/s,
# which is 6.3 with bytes at 4.13; loads with 0.5.15 on H200 and H100 agree to 2 %.
_KERNELS = KernelTimes(2.1e-6, 3.3e-6, 6.3e-6, 1.4e-6)
# Source: single kernels timed one after another, without overlap: AIConfigurator's gemm_perf
# (sglang 0.5.14): 4.0 to 4.7 µs in bf16 and 7 to 9 in FP8 on H200 and B200. Small kernels: chosen
# among five sizes for public runs of 0.5.1 to 0.5.9, which fuse less; what they fuse is not known.
_KERNELS_BEFORE = KernelTimes(2.8e-6, 4.5e-6, 8.0e-6, 1.4e-6)
# The first release with the faster ones is between 0.5.9 and 0.5.15; taken as that of the graphs.
_FASTER_KERNELS: Version = (0, 5, 11)
# Captures prefill in CUDA graphs at all (breakable graphs), by public runs: 0.5.9 has none.
_PREFILL_GRAPHS: Version = (0, 5, 11)
# Does so on prefill engines as well: 0.5.15 disables all graphs there, 0.5.17 only those of decode,
# and its prefill engines report "breakable". 0.5.16 was not read.
_PREFILL_ENGINE_GRAPHS: Version = (0, 5, 17)
# Does so with MLA, attention-DP and all-to-all between experts as well.
_PREFILL_GRAPHS_EVERYWHERE: Version = (0, 5, 23)
# Launches prefill of linear attention without waiting for the GPU in each layer. Source: 0.5.17
# does (256 and 1,024 tokens take the same 27 ms, docs/log.md), by public runs 0.5.9 does not. The
# layers of gdn_backend.py once asked the GPU which states to keep (mamba_track_mask.any());
# sgl-project/sglang#32589 counts 56 such waits a step for Mamba-2. That these runs met that code
# is inferred: no log or trace of them is public.
_STATES_WITHOUT_WAIT: Version = (0, 5, 11)
# Outside the steps, for each further GPU of an engine. Source: first tokens of public runs at tp 4
# and tp 8 (SGLang 0.5.9, three models, H200 and B200) come 20 to 150 ms later than launch-bound
# prefill explains, at tp 1 on H200 none do. It differs between models by more, and its cause is
# not known (broadcast to ranks, tokenizer, first use of kernels). An engine of 0.5.17 at tp 2 has
# none of it (docs/log.md); the release in between is taken to be that of the graphs.
_RANK_BEFORE_S = 10.0e-3


def prefill_graphs(
    release: str | None, role: Role, *, attention: Literal["gqa", "mla"], attention_dp: bool
) -> bool:
    """True if an engine of this release prefills from CUDA graphs by default.

    release: "0.5.9"; None: the newest that was read. A nightly build without a number is taken for
    a time before them. Source: sglang arg_groups/pd_disaggregation_hook.py and
    cuda_graph_hook.py of 0.5.15 and 0.5.23, server_args.py of 0.5.17, public runs of 0.5.1 to
    0.5.9.
    Ignores: attention backends that exclude themselves, --cuda-graph-backend-prefill.
    """
    version = numbers(release or NEWEST_READ)
    if version < _PREFILL_GRAPHS:
        return False
    if role == "prefill" and version < _PREFILL_ENGINE_GRAPHS:
        return False
    special = attention == "mla" or attention_dp
    return not special or version >= _PREFILL_GRAPHS_EVERYWHERE


def waits_in_layers(release: str | None) -> bool:
    """True if the host waits for the GPU in each layer of linear attention while it prefills.

    It then launches nothing ahead, so a step takes its launches and its kernels one after another.
    release: None: the newest that was read. Ignores: that the first kernels of a layer run while
    the host launches its last ones.
    """
    return numbers(release or NEWEST_READ) < _STATES_WITHOUT_WAIT


def rank_s(release: str | None) -> float:
    """Seconds outside the steps that a request takes longer for each further GPU of its engine.

    release: None: the newest that was read.
    """
    return 0.0 if numbers(release or NEWEST_READ) >= _PREFILL_GRAPHS else _RANK_BEFORE_S


def kernel_times(release: str | None) -> KernelTimes:
    """Kernel times in a graph of this release; None: the newest that was read."""
    later = numbers(release or NEWEST_READ) >= _FASTER_KERNELS
    return _KERNELS if later else _KERNELS_BEFORE


def why_unknown(release: str | None) -> str:
    """Why the step times of a release are not known, as a clause; "" where they are.

    release: None: the newest that was read, which is known.
    """
    if release is None or numbers(OLDEST_READ) <= numbers(release) <= numbers(NEWEST_READ):
        return ""
    if numbers(release) > numbers(NEWEST_READ):
        known = f"newer than {NEWEST_READ}, the newest"
    else:
        known = f"older than {OLDEST_READ}, the oldest"
    return f"SGLang {release} is {known} whose step times pdctl knows"


def numbers(release: str) -> Version:
    """The numbers a release begins with; () where there is none."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", release)
    return tuple(int(part) for part in found[1].split(".")) if found else ()
