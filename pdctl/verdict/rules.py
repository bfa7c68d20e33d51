"""The user's rules as lines: a value, a threshold and what it favours. Priors, not verdicts."""

import math
from dataclasses import dataclass
from typing import Literal

from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import machines_text
from pdctl.inspection.records import Cluster, Llm
from pdctl.units import format_count, format_number_of, format_seconds, format_share
from pdctl.verdict.records import Favours, Lean, Rule, Sizing, Speculation
from pdctl.workload.describe import LONG_PROMPT_TOKENS, SHORT_PROMPT_TOKENS
from pdctl.workload.records import Mix


def quarter(total: int) -> Sizing:
    """A quarter of the engines prefill, at least one, and at least one decodes.

    Raises InvalidInput below two engines.
    Source: Miles guide, "prefill = N/4" as the start without measurements.
    Ignores: lengths, rates and the model.
    """
    return _sizing(total, (total + 2) // 4, "quarter")


def rate_match(
    total: int,
    *,
    prompt_tokens_per_s: float,
    prefill_tokens_per_s: float,
    output_tokens_per_s: float = 0.0,
    decode_tokens_per_s: float | None = None,
) -> Sizing:
    """As many prefill engines as the prompt tokens per second need, bounded by the total.

    prompt_tokens_per_s: uncached ones, of all requests. prefill_tokens_per_s: of one engine.
    decode_tokens_per_s: of one decode engine; when given, decode is left the engines it needs, as
    far as prefill's own need allows in proportion.
    Raises InvalidInput below two engines.
    Source: Miles guide, prefill = ceil(rate × ISL / tokens per second of one engine).
    Ignores: queueing; an engine is taken as busy all the time.
    """
    need = prompt_tokens_per_s / prefill_tokens_per_s
    prefill = math.ceil(need - 1e-9)
    if decode_tokens_per_s is not None:
        decode = output_tokens_per_s / decode_tokens_per_s
        if prefill + math.ceil(decode - 1e-9) > total:
            prefill = round(total * need / (need + decode))
    return _sizing(total, prefill, "rate_match")


def verify_batch(running: float, verify_tokens: int) -> float:
    """Rows of a decode step: each running request brings its draft tokens and one more."""
    return running * verify_tokens


def _sizing(total: int, prefill: int, basis: Literal["quarter", "rate_match"]) -> Sizing:
    if total < 2:
        raise InvalidInput(
            f"A split needs at least 2 engines, not {total}.", hint="--total 2, or a smaller --tp"
        )
    bounded = min(max(prefill, 1), total - 1)
    return Sizing(total, bounded, total - bounded, basis)


HIGH_DECODE_BATCH = 32
VARIABLE_DISPERSION = 50.0
VARIABLE_PEAK = 2.5
KV_MOVE_SHARE = 0.5  # of the prefill that made the KV

LONG = "prompts of 4K tokens and more gain from a split (Miles guide)"
BATCH = "high decode batches are bound by memory bandwidth (Miles guide); 32 is pdctl's 'high'"
MOE = "decode gains from expert parallelism that prefill does not need (Miles guide)"
SHORT = "prompts under about 1K tokens do not repay routing and KV transfer (Miles guide)"
NODE = "pool boundaries do not help inside one node (Miles guide); a prior, not a veto"
VARY = "fixed pools waste under variable load (Miles guide); limits set on public traces"
KV = "the KV cache must move much faster than it is made (Mooncake, FAST'25)"

RULE_WORDS = {
    "long_prompts": "long prompts",
    "decode_batch": "a high decode batch",
    "moe": "MoE",
    "short_prompts": "short prompts",
    "single_node": "one node",
    "variability": "variable load",
    "kv_path": "the KV path",
}
NAMES = {"pd": "a split", "colocated": "colocated", "too_close": "too close to call"}


@dataclass(frozen=True)
class LoadEstimate:
    """First estimates that the rules read. None: unknown.

    decode_batch: requests running on one decode engine, or one colocated engine where nothing
    is_split. kv_move_s and prefill_s: to move the KV of a mean prompt between engines, and to
    compute it.
    """

    decode_batch: float | None = None
    is_split: bool = True
    kv_move_s: float | None = None
    prefill_s: float | None = None


def apply_rules(
    llm: Llm,
    cluster: Cluster,
    mix: Mix,
    load: LoadEstimate | None = None,
    speculation: Speculation | None = None,
) -> tuple[Rule, ...]:
    """Every rule with its value, threshold and what it favours; unknown stays unknown.

    Source: the Miles guide for the rules; each threshold names its own.
    """
    load = load or LoadEstimate()
    return (
        _long_prompts(mix),
        _decode_batch(mix, load, speculation),
        _moe(llm),
        _short_prompts(mix),
        _single_node(cluster),
        _variability(mix),
        _kv_path(cluster, mix, load),
    )


def uncached_prompt_tokens(mix: Mix) -> float | None:
    """Mean prompt tokens that prefill must compute: those not found in the prefix cache.

    Ignores: that a finite cache finds fewer than an unlimited one.
    """
    if mix.isl is None:
        return None
    return mix.isl.mean * (1.0 - (mix.prefix_hit or 0.0))


def lean(rules: tuple[Rule, ...]) -> Lean:
    """The side the rules clearly point to: two for one side and none for the other.

    Two GPUs that cannot reach each other, or a KV move slower than the prefill, decide alone.
    """
    favours = {rule.id: rule.favours for rule in rules}
    if favours.get("kv_path") == "colocated":
        return "colocated"
    votes = list(favours.values())
    pd, colocated = votes.count("pd"), votes.count("colocated")
    if pd >= 2 and not colocated:
        return "pd"
    if colocated and (pd == 0 or favours.get("short_prompts") == "colocated" and pd == 1):
        return "colocated"
    return "mixed"


def _long_prompts(mix: Mix) -> Rule:
    tokens = uncached_prompt_tokens(mix)
    if tokens is None or mix.isl is None:
        return Rule("long_prompts", "unknown", None, LONG_PROMPT_TOKENS, "unknown: --isl", LONG)
    text = f"mean {format_number_of(round(mix.isl.mean), 'token')}"
    if mix.prefix_hit:
        text += f", {format_count(round(tokens))} uncached"
    if mix.isl.cv > 0:
        text += f", {format_share(mix.isl.share_from_4k)} over 4K"
    if mix.isl.cv > 0 and mix.requests is None:
        text += f" (drawn, CV {mix.isl.cv:.3g})"
    favours: Favours = "pd" if tokens >= LONG_PROMPT_TOKENS else "neither"
    return Rule("long_prompts", favours, tokens, LONG_PROMPT_TOKENS, text, LONG)


def _short_prompts(mix: Mix) -> Rule:
    tokens = uncached_prompt_tokens(mix)
    if tokens is None or mix.isl is None:
        return Rule("short_prompts", "unknown", None, SHORT_PROMPT_TOKENS, "unknown: --isl", SHORT)
    favours: Favours = "colocated" if tokens < SHORT_PROMPT_TOKENS else "neither"
    if mix.isl.cv > 0:
        text = f"{format_share(mix.isl.share_under_1k)} under 1K"
    elif tokens < SHORT_PROMPT_TOKENS:
        text = "under 1K to compute"
    else:
        text = "1–2K: measure first" if tokens < 2 * SHORT_PROMPT_TOKENS else "none under 1K"
    return Rule("short_prompts", favours, tokens, SHORT_PROMPT_TOKENS, text, SHORT)


def _decode_batch(mix: Mix, load: LoadEstimate, speculation: Speculation | None) -> Rule:
    batch = load.decode_batch
    if batch is None:
        text = _unknown_load(mix)
        return Rule("decode_batch", "unknown", None, HIGH_DECODE_BATCH, text, BATCH)
    rows = verify_batch(batch, speculation.verify_tokens) if speculation else batch
    favours: Favours = "pd" if rows >= HIGH_DECODE_BATCH else "neither"
    engine = "decode engine" if load.is_split else "engine"
    text = f"~{format_count(max(1, round(batch)))} running per {engine}"
    if speculation:
        text += f", {format_count(max(1, round(rows)))} tokens to verify in a step"
    return Rule("decode_batch", favours, rows, HIGH_DECODE_BATCH, text, BATCH)


def _moe(llm: Llm) -> Rule:
    if llm.experts is None:
        return Rule("moe", "neither", 0, 1, "dense", MOE)
    text = f"MoE, {llm.experts.num_experts} experts, {llm.experts.experts_per_token} active"
    return Rule("moe", "pd", llm.experts.num_experts, 1, text, MOE)


def _single_node(cluster: Cluster) -> Rule:
    favours: Favours = "colocated" if cluster.num_nodes == 1 else "neither"
    text = "one" if cluster.num_nodes == 1 else str(cluster.num_nodes)
    return Rule("single_node", favours, cluster.num_nodes, 2, text, NODE)


def _variability(mix: Mix) -> Rule:
    burst = mix.burstiness
    if burst is None:
        text = "unknown: give a trace" if mix.requests is None else "no five minutes of arrivals"
        return Rule("variability", "unknown", None, VARIABLE_PEAK, text, VARY)
    variable = burst.dispersion > VARIABLE_DISPERSION or burst.peak_over_mean > VARIABLE_PEAK
    text = f"busiest minute {burst.peak_over_mean:.1f}× the mean"
    favours: Favours = "colocated" if variable else "neither"
    return Rule("variability", favours, burst.peak_over_mean, VARIABLE_PEAK, text, VARY)


def _kv_path(cluster: Cluster, mix: Mix, load: LoadEstimate) -> Rule:
    if cluster.num_gpus == 1:
        return Rule("kv_path", "neither", None, None, "one GPU: nothing is transferred", KV)
    if cluster.num_nodes == 1 and cluster.gpu.peer_bytes_per_s is None:
        text = "GPUs meet only over PCIe"
        return Rule("kv_path", "colocated", load.kv_move_s, None, text, KV)
    if load.kv_move_s is None or load.prefill_s is None:
        return Rule("kv_path", "unknown", None, None, _unknown_path(cluster, mix), KV)
    limit = load.prefill_s * KV_MOVE_SHARE
    favours: Favours = "colocated" if load.kv_move_s > limit else "neither"
    moved, made = format_seconds(load.kv_move_s), format_seconds(load.prefill_s)
    text = f"transfer {moved} per prompt, computing it {made}"
    return Rule("kv_path", favours, load.kv_move_s, limit, text, KV)


def _unknown_path(cluster: Cluster, mix: Mix) -> str:
    if cluster.num_nodes > 1 and cluster.rdma_bytes_per_s is None:
        gpus = machines_text(cluster)
        return f"unknown: RDMA rate between nodes (--gpus {gpus}:rdma400)"
    return _unknown_load(mix)


def _unknown_load(mix: Mix) -> str:
    missing = missing_lengths(mix)
    return f"unknown: {' and '.join(missing)}" if missing else "unknown: nothing can run this"


def missing_lengths(mix: Mix) -> list[str]:
    """The flags of mean lengths that are unknown, and without which nothing is predicted."""
    lengths = (("--isl", mix.isl), ("--osl", mix.osl))
    return [flag for flag, known in lengths if known is None]
