"""Evaluate StepTimes: how long does this step take?"""

import math
from bisect import bisect_left
from collections.abc import Callable

from pdctl.perf_model.records import StepTimes

SMALL_GRAPHS = (1, 2, 4, 8, 12, 16)
SPLIT_BELOW = 0.8  # of a wave: FlashAttention-3 splits sequences (hopper/heuristics.h)
OVERFILL = 1.1  # and aims at this much of a wave (hopper/flash_prepare_scheduler.cu)
LONE_RATE = 2.0  # a thread block reads so much faster where few others do


def prefill_s(
    times: StepTimes, new_tokens: float, pairs: float, waited_tokens: float = 0.0
) -> float:
    """The time that one prefill step keeps the engine.

    new_tokens: N, tokens computed in this step over all its chunks. pairs: A, the sum over
    chunks of `weighted_pairs` for e new tokens after h cached or earlier ones. waited_tokens: what
    the other attention-DP ranks could compute while they wait for the busiest one.
    Source: StepTimes. Ignores: that windows and scans, which graphs leave out, are not padded.
    """
    new_tokens = padded(times, new_tokens)
    touched = coverage(times.prefill_expert_share, new_tokens)
    streamed = smooth_max(
        times.prefill_weight_s * touched,
        times.prefill_token_s * (new_tokens + times.prefill_padding * touched),
    )
    plain = times.prefill_row_s * (new_tokens + waited_tokens) + times.prefill_pair_s * pairs
    return max(prefill_floor_s(times), times.prefill_base_s + streamed + plain)


def ranked_prefill_s(
    times: StepTimes, dp: int, tokens: int, most_tokens: int, most_pairs: float
) -> float:
    """The time of a prefill step of `dp` attention-DP ranks, which have `tokens` in all.

    most_tokens, most_pairs: of the rank that has most. Experts share all tokens; attention and
    rows wait for the busiest rank.
    """
    return prefill_s(times, tokens, dp * most_pairs, float(dp * most_tokens - tokens))


def prefill_floor_s(times: StepTimes) -> float:
    """The least a prefill step takes: launching every kernel, or those that graphs leave out."""
    launched_s = times.prefill_pieces_s if times.prefill_graphs else times.eager_s
    return launched_s / times.stages


def prefill_turn_s(times: StepTimes) -> float:
    """The time in which a prefill engine's loop prepares a prefill step and launches it.

    With graphs, the GPU begins while the host launches what they leave out.
    """
    if not times.prefill_graphs:
        return max(times.prefill_start_s, prefill_floor_s(times))
    return times.prefill_start_s + prefill_floor_s(times)


def padded(times: StepTimes, new_tokens: float) -> float:
    """Tokens of the smallest prefill graph that takes `new_tokens`.

    Source: SGLang's docs on piecewise CUDA graphs. More tokens than the largest graph's run eager.
    """
    sizes = times.prefill_sizes
    at = bisect_left(sizes, new_tokens) if times.prefill_graphs else len(sizes)
    return sizes[at] if at < len(sizes) else new_tokens


def pairs(new_tokens: float, cached_tokens: float = 0.0) -> float:
    """Query-key pairs of one chunk under causal attention: e·(h + e/2)."""
    return new_tokens * (cached_tokens + new_tokens / 2)


def weighted_pairs(times: StepTimes, new_tokens: float, cached_tokens: float) -> float:
    """`pairs` of one chunk, those with a cached token weighted by what they cost.

    The kernel that reads a cached prefix is another one than that of new tokens, and reads it for
    few of them as well. Source: docs/equations.md, "Cached prefix".
    """
    reading = times.prefill_cached_weight * (new_tokens + times.prefill_cached_tokens)
    return new_tokens * new_tokens / 2 + reading * cached_tokens


def decode_step_s(times: StepTimes, batch: float, context_tokens: float) -> float:
    """The time of one decode step of `batch` requests.

    context_tokens: S, tokens of context summed over the batch.
    Source: StepTimes. Ignores: sequences of different length, whose thread blocks end apart.
    """
    if batch <= 0:
        return 0.0
    linear = decode_constant_s(times, batch) + decode_slope_s(times, batch) * context_tokens
    return max(linear, decode_floor_s(times, batch))


def decode_constant_s(times: StepTimes, batch: float) -> float:
    """The part of a decode step that does not depend on its context, its floor apart."""
    rows = batch if batch > times.decode_graph_batch else graph_rows(batch)
    read_s = times.decode_dense_s + times.decode_weight_s * coverage(times.expert_share, rows)
    products_s = smooth_max(read_s, times.decode_compute_s * rows)
    beyond_s = products_s - times.decode_dense_s
    if batch > 1 and rows < SPLIT_BELOW * times.decode_wave_batch:
        beyond_s += times.decode_split_s
    return times.decode_base_s + times.decode_request_s * rows + beyond_s


def graph_rows(batch: float) -> float:
    """Rows of the decode graph that a batch is padded to.

    Source: SGLang's cuda_graph_config captures 1, 2, 4, 8, 12, then by 8, from 256 by 16, from 512
    by 32. What the padding rows held before stays in them, so they touch experts as others do.
    """
    if batch <= 16:
        return next(size for size in SMALL_GRAPHS if size >= batch)
    step = 8 if batch <= 256 else 16 if batch <= 512 else 32
    return step * math.ceil(batch / step)


def decode_slope_s(times: StepTimes, batch: float) -> float:
    """Seconds per token of context S: smooth(latency·S/B, bandwidth·S) is linear in S."""
    if times.decode_block_batch:
        return times.decode_context_s * whole_waves(times.decode_block_batch, batch)
    read_s = times.decode_context_s * waves(times.decode_wave_batch, batch)
    return smooth_max(times.decode_latency_s / batch, read_s)


def waves(wave_batch: float, batch: float) -> float:
    """The factor on reading KV because its thread blocks do not fill whole waves.

    A request's KV heads are a block each; short of a wave they are split into equal parts. The
    blocks of a last, partial wave (a share r of one) read faster the fewer they are:
    (1 + r^1.5)/LONE_RATE of a wave's time. wave_batch: requests whose unsplit blocks fill the GPU.
    Source: how FlashAttention-3 splits; r: steps of 2 to 44 requests at work on two H200
    (docs/log.md). Ignores: sequences of different length.
    """
    if not wave_batch:
        return 1.0
    unsplit = batch / wave_batch
    parts = max(1, math.ceil(1.0 / (OVERFILL * unsplit) - 1e-9))
    blocks = unsplit * parts
    last = blocks % 1.0
    return (blocks - last + ((1.0 + last**1.5) / LONE_RATE if last > 1e-9 else 0.0)) / blocks


def whole_waves(block_batch: float, batch: float) -> float:
    """The factor on verifying because a GPU runs one thread block per multiprocessor at a time.

    block_batch: requests whose query heads fill the GPU once. A last, partial wave takes as long as
    a full one. Source: 255 registers and 256 threads of each block in traces of EAGLE on H200
    (docs/log.md). Ignores: sequences of different length.
    """
    return math.ceil(batch / block_batch - 1e-9) * block_batch / batch


def decode_floor_s(times: StepTimes, batch: float) -> float:
    """The least a decode step of `batch` takes: its launches, where it has no graph."""
    return times.eager_s if batch > times.decode_graph_batch else 0.0


def mixed_step_s(
    times: StepTimes, new_tokens: float, pairs: float, batch: float, context_tokens: float
) -> float:
    """The time of a prefill step that carries `batch` decode rows.

    The rows count as new tokens of the linear part and bring decode's attention and request
    terms; weights are read once. Source: SGLang's ForwardMode.MIXED.
    """
    prefill = prefill_s(times, new_tokens + batch, pairs)
    return prefill + rows_beside_s(times, batch, context_tokens)


def rows_beside_s(times: StepTimes, batch: float, context_tokens: float) -> float:
    """The time that the requests and the attention of `batch` decode rows add to a prefill step."""
    if batch <= 0:
        return 0.0
    return times.decode_request_s * batch + decode_slope_s(times, batch) * context_tokens


def kv_transfer_s(times: StepTimes, prompt_tokens: float) -> float:
    """Seconds until a whole prompt's KV, windows and state have arrived, on an idle link."""
    return last_chunk_s(times, prompt_tokens, prompt_tokens)


def chunk_s(times: StepTimes, tokens: float) -> float:
    """Seconds the KV of one chunk takes that is not its prompt's last."""
    return times.transfer_base_s + times.transfer_token_s * tokens


def last_chunk_s(times: StepTimes, tokens: float, prompt_tokens: float) -> float:
    """Seconds the last chunk takes, with the windows and the state of its prompt.

    Source: sglang 0.5.23 disaggregation/prefill.py sends states with the last chunk.
    """
    windows = times.transfer_window_token_s * min(prompt_tokens, times.transfer_window_tokens)
    return chunk_s(times, tokens) + times.transfer_state_s + windows


def coverage(share: float, tokens: float) -> float:
    """Expected share of experts touched by `tokens`, each choosing `share` of them at random.

    Source: E·(1 − (1 − k/E)^T) over E. Ignores: that real routing is uneven, so fewer are touched.
    """
    return 1.0 if share >= 1.0 else 1.0 - (1.0 - share) ** tokens


def smooth_max(x: float, y: float) -> float:
    """(x⁴ + y⁴)^¼: two limits that hide behind one another except where they are close.

    Source: fitted best to SGLang's triton decode attention on H200 among sum, max and powers.
    """
    if x <= 0.0 or y <= 0.0:
        return max(x, y)
    big, small = (x, y) if x > y else (y, x)
    ratio = small / big
    return big * float((1.0 + ratio * ratio * ratio * ratio) ** 0.25)


class DecodeCosts:
    """Per batch size: a step's constant seconds, seconds per context token, and least seconds."""

    __slots__ = ("_rows", "_times")

    def __init__(self, times: StepTimes) -> None:
        self._times = times
        self._rows: dict[int, tuple[float, float, float]] = {}

    def __getitem__(self, batch: int) -> tuple[float, float, float]:
        row = self._rows.get(batch)
        if row is None:
            times = self._times
            row = self._rows[batch] = (
                decode_constant_s(times, batch),
                decode_slope_s(times, batch),
                decode_floor_s(times, batch),
            )
        return row


def pairs_of(times: StepTimes) -> Callable[[float, float], float]:
    """weighted_pairs of fixed times as a function of a chunk's new tokens and those before it."""
    if times.prefill_cached_weight == 1.0 and not times.prefill_cached_tokens:
        return pairs
    weight, beside = times.prefill_cached_weight, times.prefill_cached_tokens

    def weighted(tokens: float, done: float) -> float:
        return tokens * tokens / 2 + weight * (tokens + beside) * done

    return weighted


def prefill_step_s(times: StepTimes) -> Callable[[float, float], float]:
    """prefill_s of fixed times as a function of new tokens and pairs.

    For a dense LLM the weights cost the same whatever the tokens, so one power suffices.
    """
    if times.prefill_expert_share < 1.0 and times.prefill_weight_s > 0.0:
        return lambda tokens, pairs: prefill_s(times, tokens, pairs)
    base, per_token, per_pair = times.prefill_base_s, times.prefill_token_s, times.prefill_pair_s
    weight, per_row, floor = times.prefill_weight_s**4, times.prefill_row_s, prefill_floor_s(times)

    def dense(tokens: float, pairs: float) -> float:
        tokens = padded(times, tokens)
        seconds = (
            base
            + ((weight + (per_token * tokens) ** 4) ** 0.25 if weight else per_token * tokens)
            + per_row * tokens
            + per_pair * pairs
        )
        return seconds if seconds > floor else floor

    return dense
