"""The engines that the GPUs of a question can hold, and their possible numbers."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import machines_text
from pdctl.inspection.layers import mixers_of
from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.engine_model import engine_model
from pdctl.perf_model.memory import check_parallelism
from pdctl.perf_model.records import SGLANG_DEFAULTS, EngineModel, Fleet, Parallelism, Role
from pdctl.perf_model.simulator.routing import Policy, known_policy
from pdctl.units import format_number_of
from pdctl.verdict.records import Site, StateLimits
from pdctl.workload.records import Mix, longest_request

NOTABLE = 1.5  # times more requests per engine: worth a line
MAX_SIZES = 4  # sizes of engine tried per role beyond the smallest that fits


@dataclass(frozen=True)
class Engines:
    """Every engine that fits, by role; smallest first."""

    colocated: tuple[EngineModel, ...]
    prefill: tuple[EngineModel, ...]
    decode: tuple[EngineModel, ...]

    def of(self, role: Role) -> tuple[EngineModel, ...]:
        """The engines of a role."""
        by_role: dict[Role, tuple[EngineModel, ...]] = {
            "colocated": self.colocated,
            "prefill": self.prefill,
            "decode": self.decode,
        }
        return by_role[role]


def engines_that_fit(site: Site, made: Engines | None = None) -> Engines:
    """The engines the search may use: those the user fixed, or all sizes, that can serve.

    They fit the GPUs, and one attention-DP rank holds a mean request of the workload. made: those
    of the site under another workload, not to be made again.
    """
    return Engines(
        _role_engines(site, "colocated", made.colocated if made else ()),
        _role_engines(site, "prefill", made.prefill if made else ()),
        _role_engines(site, "decode", made.decode if made else ()),
    )


def gpu_budget(site: Site) -> int:
    """GPUs both arms may use.

    Raises InvalidInput when the engines asked for need more than there are.
    """
    have = min(site.cluster.num_gpus, site.max_gpus or site.cluster.num_gpus)
    size = _fixed_size(site)
    if site.total is None or size is None:
        return have
    most, needed = most_engines(site.cluster, size), site.total * size
    engines = f"{format_number_of(site.total, 'engine')} of {format_number_of(size, 'GPU')}"
    if needed > have:
        need, are = ("needs" if site.total == 1 else "need"), ("is" if have == 1 else "are")
        raise InvalidInput(
            f"{engines} {need} {format_number_of(needed, 'GPU')}; there {are} {have}.",
            hint=f"--total {have // size}" if have >= size else f"--tp {have}",
        )
    if site.total > most:
        raise InvalidInput(
            f"{machines_text(site.cluster)} has no room for {engines}, only for {most}.",
            hint=f"--total {most}" if most else f"--tp {site.cluster.gpus_per_node}",
        )
    return site.total * size


def colocated_fleets(site: Site, engines: Engines) -> tuple[Fleet, ...]:
    """One fleet per colocated engine size, each as large as the GPUs allow."""
    budget = gpu_budget(site)
    fleets = []
    for engine in engines.colocated:
        size = engine.parallelism.num_gpus
        count = min(budget // size, most_engines(site.cluster, size))
        if site.total is not None and "colocated" in site.parallelism:
            count = min(count, site.total)
        if count:
            fleets.append(
                Fleet(
                    colocated=engine,
                    num_colocated=count,
                    policy=routing_policy(site, is_split=False),
                )
            )
    return tuple(fleets)


def pd_fleets(site: Site, prefill: EngineModel, decode: EngineModel) -> tuple[Fleet, ...]:
    """All splits of the GPUs over these two engines that leave no room for another engine."""
    policy = routing_policy(site, is_split=True)
    return tuple(
        Fleet(prefill=prefill, decode=decode, num_prefill=p, num_decode=d, policy=policy)
        for p, d in _splits(site, prefill, decode)
    )


def routing_policy(site: Site, *, is_split: bool) -> Policy:
    """The policy to simulate: the user's, or the one `up` gives the router where that makes sense.

    Drawn prompts with a --prefix-hit all share one prefix, for which cache_aware would send
    them to one engine; real prompts share many, and then any engine has some of them.
    """
    if site.policy:
        return known_policy(site.policy)
    if is_split:
        return "round_robin"
    drawn = site.workload.requests is None
    return "power_of_two" if drawn and site.workload.prefix_hit else "cache_aware"


def state_limits(llm: Llm, fleets: Mapping[str, Fleet]) -> StateLimits | None:
    """The most requests per engine of both arms, where states of requests make them differ.

    None: the LLM keeps no state pool, one arm is missing, or they differ by at most 1.5 times.
    Source: running_cap() of perf_model/memory.py. Ignores: why else two engines may differ.
    """
    decode = fleets["pd"].decode if "pd" in fleets else None
    colocated = fleets["colocated"].colocated if "colocated" in fleets else None
    has_states = any(mixer.kind == "state" for mixer in mixers_of(llm.layers))
    if decode is None or colocated is None or not has_states:
        return None
    limits = StateLimits(decode.max_running_requests, colocated.max_running_requests)
    low, high = sorted((limits.decode, limits.colocated))
    return limits if high > NOTABLE * low else None


def _splits(site: Site, prefill: EngineModel, decode: EngineModel) -> Iterator[tuple[int, int]]:
    budget = gpu_budget(site)
    each_p, each_d = prefill.parallelism.num_gpus, decode.parallelism.num_gpus
    is_whole = _divides(site.cluster, each_p, each_d)

    def has_room(p: int, d: int) -> bool:
        if p * each_p + d * each_d > budget:
            return False
        wanted = Counter({each_p: p}) + Counter({each_d: d})
        return is_whole or has_room_for(site.cluster, wanted)

    def most_decode(p: int) -> int:
        most = (budget - p * each_p) // each_d
        tried = range(1, most + 1)
        return most if is_whole else bisect_left(tried, True, key=lambda d: not has_room(p, d))

    if site.total is not None:
        yield from (
            (p, site.total - p) for p in range(1, site.total) if has_room(p, site.total - p)
        )
        return
    for p in range(1, (budget - each_d) // each_p + 1):
        d = most_decode(p)
        if d and not has_room(p + 1, d):
            yield p, d


def has_room_for(cluster: Cluster, wanted: Mapping[int, int]) -> bool:
    """True if `up` finds room for so many engines of each size on the machines of a cluster.

    Largest first, each on the fullest machines with room; `up` tries this where its policy fails.
    Source: `choose_nodes` of the placement, and `parts`, which divides an engine among machines.
    """
    free = cluster.num_hosts_of
    for size in sorted(wanted, reverse=True):
        machines, each = _parts(cluster, size)
        left = wanted[size] * machines
        if not each:
            return False
        for room in sorted(room for room in free if room >= each):
            holds = room // each
            filled, rest = divmod(min(left, free[room] * holds), holds)
            free += Counter({room - each * holds: filled, room - each * rest: bool(rest)})
            free[room] -= filled + bool(rest)
            left -= filled * holds + rest
        if left:
            return False
    return True


def most_engines(cluster: Cluster, size: int) -> int:
    """The number of engines of one size that the machines of a cluster hold."""
    machines, each = _parts(cluster, size)
    rooms = cluster.num_hosts_of.items()
    return sum(num * (room // each) for room, num in rooms) // machines if each else 0


def _parts(cluster: Cluster, size: int) -> tuple[int, int]:
    """The machines of an engine and its GPUs on each; 0 where these cannot be equal."""
    machines = -(-size // (cluster.largest_host or max(cluster.num_hosts_of)))
    return machines, 0 if size % machines else size // machines


def _divides(cluster: Cluster, one: int, other: int) -> bool:
    """True if engines of these sizes leave no GPU unused on any machine before all are taken."""
    rooms = cluster.num_hosts_of
    small, large = sorted((one, other))
    if large > max(rooms) != (cluster.largest_host or max(rooms)):
        return False
    return large % small == 0 and all(
        room % size == 0 or (len(rooms) == 1 and size % room == 0)
        for room in rooms
        for size in (small, large)
    )


def _role_engines(site: Site, role: Role, made: Sequence[EngineModel]) -> tuple[EngineModel, ...]:
    known = {engine.parallelism: engine for engine in made}
    fixed = site.parallelism.get(role)
    tried = (fixed,) if fixed else tuple(shapes(site, role))
    found: list[EngineModel] = []
    sizes: set[int] = set()
    for shape in tried:
        if len(sizes) >= MAX_SIZES and shape.num_gpus not in sizes:
            break
        engine = known.get(shape) or fixed_engine(site, role, shape)
        if engine is not None and holds_one(engine, site.workload):
            sizes.add(shape.num_gpus)
            found.append(engine)
    return tuple(found)


def holds_one(engine: EngineModel, mix: Mix) -> bool:
    """True if a rank of the engine has room for a mean request, or a length is unknown."""
    needed = tokens_of_one(engine, mix)
    return needed is None or needed <= rank_tokens(engine)


def rank_tokens(engine: EngineModel) -> int:
    """Tokens of KV cache that one request can take: it lives on one attention-DP rank."""
    return longest_request(engine.kv_capacity_tokens // engine.parallelism.dp)


def tokens_of_one(engine: EngineModel, mix: Mix) -> float | None:
    """KV tokens that a mean request takes; None while a length is unknown.

    A prefill engine keeps the prompt alone; a decode engine reserves room for output beforehand.
    Source: SGLang's init_req_max_new_tokens and num_reserved_decode_tokens.
    """
    if mix.isl is None or mix.osl is None:
        return None
    prompt, output = mix.isl.mean, mix.osl.mean
    if engine.role == "prefill":
        return prompt + 1
    return prompt + max(output, engine.reserved_decode_tokens if engine.role == "decode" else 0)


def fixed_engine(site: Site, role: Role, shape: Parallelism) -> EngineModel | None:
    """The engine of a role and shape, with what the question says of it; None: does not fit."""
    speculation = site.speculation
    serving = site.serving.get(role, SGLANG_DEFAULTS)
    return engine_model(
        site.llm,
        site.cluster,
        shape,
        role,
        profile=site.profile,
        serving=serving,
        attention_backend=serving.attention_backend or site.attention_backend,
        verify_tokens=speculation.verify_tokens if speculation else 1,
        accept_length=speculation.accept_length if speculation else 1.0,
    )


def shapes(site: Site, role: Role) -> Iterator[Parallelism]:
    """Parallelisms worth trying for a role, smallest first, that the LLM can be cut into."""
    fixed = _fixed_size(site)
    most = site.cluster.num_gpus - (0 if role == "colocated" else 1)
    for size in _sizes(site.llm, site.cluster):
        if size <= most and fixed in (None, size):
            yield from (s for s in _of_size(site.llm, size) if _can_cut(site.llm, s))


def _sizes(llm: Llm, cluster: Cluster) -> Iterator[int]:
    """Powers of two inside a node; whole nodes beyond it, for expert parallelism any number."""
    size = 1
    while size <= cluster.gpus_per_node:
        yield size
        size *= 2
    nodes = 2
    while nodes <= cluster.num_nodes:
        yield nodes * cluster.gpus_per_node
        nodes = nodes + 1 if llm.experts else nodes * 2


def _of_size(llm: Llm, size: int) -> tuple[Parallelism, ...]:
    """Dense: tensor parallel. MoE: experts spread too, and with MLA attention is replicated."""
    if llm.experts is None or size == 1:
        return (Parallelism(tp=size),)
    spread = Parallelism(tp=size, ep=size)
    if llm.attention == "mla":
        return (Parallelism(tp=size), Parallelism(tp=size, dp=size, ep=size))
    return (Parallelism(tp=size), spread)


def _can_cut(llm: Llm, shape: Parallelism) -> bool:
    try:
        check_parallelism(llm, shape)
    except InvalidInput:
        return False
    return True


def _fixed_size(site: Site) -> int | None:
    """GPUs of one engine where all roles have the same: fixed by the user, or by --total."""
    sizes = {shape.num_gpus for shape in site.parallelism.values()}
    if len(sizes) == 1 and len(site.parallelism) == 3:
        return sizes.pop()
    if site.total is None or site.parallelism:
        return None
    fitting = [
        size
        for size in _sizes(site.llm, site.cluster)
        if most_engines(site.cluster, size) >= site.total
    ]
    return fitting[-1] if fitting else 1
