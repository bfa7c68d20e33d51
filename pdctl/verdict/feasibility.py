"""Reasons, with figures, why these GPUs cannot hold an engine or serve these requests."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pdctl.inspection.cluster import described_gpus
from pdctl.perf_model.engine_model import does_not_fit_reason
from pdctl.perf_model.memory import kv_cell_bytes
from pdctl.perf_model.records import Parallelism, Role
from pdctl.units import format_bytes, format_count, format_number_of
from pdctl.verdict.closed_form import Demand
from pdctl.verdict.layouts import (
    Engines,
    engines_that_fit,
    fixed_engine,
    gpu_budget,
    holds_one,
    most_engines,
    rank_tokens,
    shapes,
    tokens_of_one,
)
from pdctl.verdict.records import Site
from pdctl.workload.records import longest_request

ROLES: tuple[Role, ...] = ("colocated", "prefill", "decode")
MOST_GPUS_LOG2 = 8  # up to 128 GPUs are tried


def why_nothing_fits(site: Site) -> str:
    """Why no engine of any size fits these GPUs, or none of which there can be --total."""
    fixed = site.parallelism.get("colocated")
    shape = fixed or next(reversed(list(shapes(site, "colocated"))), Parallelism())
    cluster = site.cluster
    where = f"{cluster.num_gpus} × {cluster.gpu.name}"
    reason = _reason(site, shape, "colocated")
    if fewer := total_that_fits(site):
        each = format_number_of(shape.num_gpus, "GPU")
        why = reason or f"colocated engines {_misfit_of(site, shape, 'colocated')}"
        return (
            f"{format_number_of(site.total or 0, 'engine')} (--total) on {where} get {each} each, "
            f"which is too few: {why}. {format_number_of(fewer, 'engine', 'fit')}."
        )
    if reason:
        return f"{site.llm.name} does not fit on {where}: {reason}."
    why = _misfit_of(site, shape, "colocated")
    return f"{site.llm.name} fits on {where}, but colocated engines {why}."


def total_that_fits(site: Site) -> int | None:
    """The most engines, fewer than --total, that fit these GPUs.

    None: --total is not what nothing fits for.
    """
    fewer = range(min((site.total or 0) - 1, site.cluster.num_gpus), 0, -1)
    return next((n for n in fewer if _holds(replace(site, total=n))), None)


def where_it_fits(site: Site) -> str:
    """The fewest of these GPUs, in powers of two, that hold the engines, as --gpus takes them.

    A parallelism and a number of engines that were asked for stay as they are. "": there is no
    such number.
    """
    free = replace(site, max_gpus=None)
    for gpus in (2**n for n in range(MOST_GPUS_LOG2)):
        nodes, each = max(1, gpus // 8), min(gpus, 8)
        if _holds(replace(free, cluster=site.cluster.with_equal_nodes(nodes, each))):
            return described_gpus(nodes, each, site.cluster.gpu.name)
    return ""


def _holds(site: Site) -> bool:
    """True if as many engines as asked for, or one, fit the GPUs."""
    least = site.total or 1
    engines = engines_that_fit(site).colocated
    return any(most_engines(site.cluster, e.parallelism.num_gpus) >= least for e in engines)


def why_too_long(site: Site, demand: Demand) -> str:
    """Why nobody can serve the mean request: it exceeds the LLM's context; "" where it does not."""
    context = site.llm.max_context
    if context is None or demand.isl + demand.osl <= longest_request(context):
        return ""
    prompt, output = format_number_of(demand.isl, "token"), format_number_of(demand.osl, "token")
    return (
        f"Requests with a prompt of {prompt} and an output of {output} are too long: the context "
        f"of {site.llm.name} has {format_count(context)} tokens, of which SGLang fills "
        f"{format_count(longest_request(context))}."
    )


def left_out(site: Site) -> Iterator[str]:
    """For each role, the largest engine without room for one request of this workload.

    Smaller ones have less room; engines whose weights do not fit are not named.
    """
    for role in ROLES:
        fixed = site.parallelism.get(role)
        tried = [fixed] if fixed else list(shapes(site, role))
        tight = [shape for shape in tried if _is_tight(site, shape, role)]
        if tight:
            shape = max(tight, key=lambda shape: shape.num_gpus)
            yield f"{role.capitalize()} engines {_misfit_of(site, shape, role)}."


def _is_tight(site: Site, shape: Parallelism, role: Role) -> bool:
    engine = fixed_engine(site, role, shape)
    return engine is not None and not holds_one(engine, site.workload)


def why_not_built(site: Site, engines: Engines, built: set[str]) -> dict[str, str]:
    """Why an arm cannot be built: role, parallelism and bytes that do not fit, or too few GPUs."""
    roles: dict[str, tuple[Role, ...]] = {"colocated": ("colocated",), "pd": ("prefill", "decode")}
    found = {}
    for arm, needed in roles.items():
        if arm in built:
            continue
        reasons = [why for role in needed if (why := _misfit(site, engines, role))]
        found[arm] = "; ".join(reasons) or _too_few(site, engines, needed)
    return found


def _misfit(site: Site, engines: Engines, role: Role) -> str:
    if engines.of(role):
        return ""
    fixed = site.parallelism.get(role)
    tried = [fixed] if fixed else list(shapes(site, role))[-1:]
    return f"{role} engines {_misfit_of(site, tried[0], role)}" if tried else ""


def _misfit_of(site: Site, shape: Parallelism, role: Role) -> str:
    """Why an engine of a shape cannot serve, as the end of a sentence about it."""
    if reason := _reason(site, shape, role):
        return f"do not fit: {reason}"
    engine = fixed_engine(site, role, shape)
    assert engine is not None
    room, needed = rank_tokens(engine), tokens_of_one(engine, site.workload)
    serving = site.serving.get(role)
    stored = serving.kv_dtype_bytes if serving else None
    cell = kv_cell_bytes(site.llm, shape, stored or site.llm.kv_dtype_bytes)
    place = "an attention-DP rank" if shape.dp > 1 else "the KV cache"
    return (
        f"of {shape.text} cannot hold one request of {format_count(needed)} tokens: {place} has "
        f"room for {format_count(room)} ({format_bytes(room * cell)} per GPU)"
    )


def _reason(site: Site, shape: Parallelism, role: Role) -> str | None:
    serving = site.serving.get(role)
    return does_not_fit_reason(site.llm, site.cluster, shape, role, serving=serving)


def _too_few(site: Site, engines: Engines, roles: Sequence[Role]) -> str:
    have = gpu_budget(site)
    there = f"there {'is' if have == 1 else 'are'} only {have}"
    if roles == ("colocated",):
        return f"a colocated engine takes more GPUs than there are ({have})"
    if engines.prefill and engines.decode:
        prefill, decode = (e[0].parallelism.num_gpus for e in (engines.prefill, engines.decode))
        return (
            f"a split needs a prefill engine of {format_number_of(prefill, 'GPU')} and a decode "
            f"engine of {format_number_of(decode, 'GPU')}, {prefill + decode} in all; {there}"
        )
    alone = format_number_of(engines.colocated[0].parallelism.num_gpus, "GPU")
    return f"a split needs two engines of at least {alone} each; {there}"
