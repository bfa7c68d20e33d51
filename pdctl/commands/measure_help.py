"""What `measure` needs around its loads: who died, how far it is, which GPUs and profile."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pdctl.commands.measure_wish import Wish
from pdctl.errors import EnvironmentProblem, PdctlError

if TYPE_CHECKING:
    from pdctl.inspection.records import Cluster, Llm
    from pdctl.measurement.engine_facts import EngineFacts
    from pdctl.measurement.records import LoadProgress
    from pdctl.measurement.trial import Endpoint
    from pdctl.perf_model.records import Profile


def profile_of(
    wish: Wish, facts: "EngineFacts", llm: "Llm", cluster: "Cluster"
) -> "Profile | None":
    from pdctl.measurement.prediction import profile_for
    from pdctl.perf_model.profiles import read_profile

    if wish.profile is not None:
        return read_profile(wish.profile)
    return profile_for(facts, llm, cluster)


def say_what_is_guessed(endpoint: "Endpoint") -> None:
    """That a prediction knows nothing of how fast this host launches kernels, where it matters."""
    if endpoint.fleet is None or endpoint.profile is not None or endpoint.engines[0].is_simulated:
        return
    if any(one.role == "prefill" and one.limits.eager for one in endpoint.engines):
        say(
            "prefill engines of this SGLang have no CUDA graphs: how long a short prompt takes is "
            "up to this host's CPU, and guessed; pdctl calibrate measures it"
        )


def cluster_behind(gpus: str, facts: "EngineFacts") -> "Cluster | None":
    """The GPUs of engines that run already; None where nobody says, least of all this machine."""
    from urllib.parse import urlsplit

    from pdctl.commands.calibrate_wish import cluster_of
    from pdctl.status.doctor_facts import is_loopback

    is_here = is_loopback(urlsplit(facts.url).hostname or "")
    if not (gpus or facts.accelerator or facts.device == "cpu" or is_here):
        return None
    try:
        return cluster_of(gpus, facts)
    except EnvironmentProblem:
        return None


def cluster_for(wish: Wish) -> "Cluster":
    """The GPUs to plan the split for."""
    from pdctl.inspection.cluster import detect_cluster, parse_gpus
    from pdctl.inspection.cpu import cpu_cluster

    if wish.engine == "sim":
        return parse_gpus(wish.gpus or f"{wish.total * (wish.sizes[0] or 1)}xH200")
    if "--device cpu" in wish.args[0]:
        return cpu_cluster()
    return detect_cluster()


def trouble(name: str) -> "Callable[[], str]":
    """Says which process of a deployment has died, or ""."""
    from pdctl.engines import state

    def look() -> str:
        try:
            found = state.read_state(name)
        except PdctlError:
            return ""
        if found is None:
            return ""
        dead = [
            p for p in found.processes if p.phase in ("failed", "backoff", "stopped") or p.restarts
        ]
        return "; ".join(f"{p.name} {p.detail or p.phase}" for p in dead)

    return look


def layout_of(roles: "list[str]") -> str:
    letters = (("prefill", "P"), ("decode", "D"), ("colocated", "C"))
    return "".join(f"{roles.count(role)}{letter}" for role, letter in letters if role in roles)


@contextmanager
def progress(words: str) -> "Iterator[Callable[[LoadProgress], None]]":
    from pdctl.tables.measure import progress_line

    is_terminal = sys.stderr.isatty()
    last = [-1e9]

    def tell(now: "LoadProgress") -> None:
        if is_terminal:
            sys.stderr.write(f"\r\x1b[2K{words} · {progress_line(now)}")
            sys.stderr.flush()
        elif now.at_s - last[0] >= 15:
            last[0] = now.at_s
            say(f"{words} · {progress_line(now)}")

    try:
        yield tell
    finally:
        if is_terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


def say(text: str) -> None:
    from pdctl.console import printable

    sys.stderr.write(printable(f"{text}\n"))
