"""Predict running engines with the simulator, from their limits and this machine's profile."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pdctl.errors import EnvironmentProblem
from pdctl.hosts import is_loopback
from pdctl.inspection.cluster import cpu_cluster, detect_cluster, parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.engine_facts import EngineFacts
from pdctl.perf_model.engine_model import usual_balance
from pdctl.perf_model.fitting.profiles import find_own_profile
from pdctl.perf_model.records import EngineModel, Fleet, Profile, Role
from pdctl.perf_model.roofline import step_times
from pdctl.perf_model.simulator.routing import known_policy


def cluster_of(gpus: str, facts: EngineFacts) -> Cluster:
    """The GPUs of an engine: from --gpus, from the engine's report, or detected here."""
    if gpus and not gpus.replace(",", "").replace("-", "").isdecimal():
        return parse_gpus(gpus)
    if facts.device == "cpu":
        return cpu_cluster()
    if facts.accelerator:
        return parse_gpus(f"{facts.parallelism.num_gpus}x{facts.accelerator}")
    return detect_cluster()


def cluster_behind(gpus: str, facts: EngineFacts) -> Cluster | None:
    """The GPUs of a running engine. None if unknown: an engine elsewhere may have other GPUs."""
    is_here = is_loopback(urlsplit(facts.url).hostname or "")
    if not (gpus or facts.accelerator or facts.device == "cpu" or is_here):
        return None
    try:
        return cluster_of(gpus, facts)
    except EnvironmentProblem:
        return None


def profile_for(facts: EngineFacts, llm: Llm, cluster: Cluster) -> Profile | None:
    """The profile for this kind of engine. None for simulated engines: they use the roofline."""
    if facts.is_simulated:
        return None
    backend = None if facts.attention_backend == "unknown" else facts.attention_backend
    return find_own_profile(cluster.gpu.name, llm, attention_backend=backend)


def fleet_of_engines(
    facts: Sequence["EngineFacts"],
    llm: Llm,
    cluster: Cluster,
    profile: Profile | None,
    policy: str = "cache_aware",
) -> Fleet:
    """Running engines as a fleet of the simulator. Assumes engines of one role are equal.

    policy: the router's.
    """
    models = {one.role: predicted_engine(one, llm, cluster, profile) for one in facts}

    def count(role: Role) -> int:
        return sum(one.role == role for one in facts)

    return Fleet(
        colocated=models.get("colocated"),
        prefill=models.get("prefill"),
        decode=models.get("decode"),
        num_colocated=count("colocated"),
        num_prefill=count("prefill"),
        num_decode=count("decode"),
        policy=known_policy(policy),
    )


@dataclass(frozen=True)
class RunningFleet:
    """The engines of a deployment as the simulator knows them. profile: None for the roofline."""

    fleet: Fleet
    llm: Llm
    cluster: Cluster
    profile: Profile | None

    @property
    def basis(self) -> str:
        """The profile of the step times, or "roofline"."""
        return self.profile.id if self.profile else "roofline"


def running_fleet(facts: Sequence["EngineFacts"], policy: str) -> RunningFleet | str:
    """The engines with these facts as the simulator knows them, or the reason why it cannot.

    policy: the router's. Raises InvalidInput for a model or GPU that pdctl does not know.
    """
    llm, cluster = read_llm(facts[0].model), cluster_behind("", facts[0])
    if cluster is None:
        return "The engines do not report which GPUs they run on."
    profile = profile_for(facts[0], llm, cluster)
    fleet = fleet_of_engines(facts, llm, cluster, profile, policy)
    return RunningFleet(fleet, llm, cluster, profile)


def predicted_engine(
    facts: "EngineFacts", llm: Llm, cluster: Cluster, profile: Profile | None
) -> EngineModel:
    """One running engine as an engine of the simulator."""
    backend = None if facts.is_simulated else facts.attention_backend
    limits = facts.limits
    return EngineModel(
        role=facts.role,
        parallelism=facts.parallelism,
        times=step_times(
            llm,
            cluster,
            facts.parallelism,
            facts.role,
            profile=profile,
            attention_backend=backend,
            prefill_graphs=not limits.eager,
            prefill_sizes=facts.prefill_sizes,
            verify_tokens=facts.verify_tokens,
            ngram=facts.ngram,
            all_to_all=facts.all_to_all,
            release=None if profile else facts.release,  # a profile's factors are of the newest
        ),
        kv_capacity_tokens=limits.kv_tokens * facts.parallelism.dp,
        max_running_requests=limits.max_running,
        chunked_prefill_size=limits.chunk * facts.parallelism.dp,
        max_context=limits.max_context,
        page_size=facts.page_size,
        reserved_decode_tokens=facts.reserved_decode_tokens,
        radix_cache=limits.prefix_cache,
        mixed_chunk=limits.mixed_chunk,
        verify_tokens=facts.verify_tokens,
        accept_length=facts.accept_length,
        balance=facts.balance or usual_balance(facts.role),
        receive_interval=facts.receive_interval,
    )
