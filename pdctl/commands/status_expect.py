"""What profiles say of the engines that `status` watches, looked up in the background."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pdctl.perf_model.records import Role

if TYPE_CHECKING:
    from pdctl.measurement.engine_facts import EngineFacts
    from pdctl.status.drifted import Expected
    from pdctl.status.records import Target

REFRESH_S = 120.0  # an engine is asked again: it may answer now, or have a new profile

Engine = tuple[str, Role]


class Expectation:
    """Asks each engine for what it is, in the background, and again from time to time.

    Empty until they have answered; engines without a measured profile are left out.
    """

    def __init__(self) -> None:
        self._asked_at: dict[Engine, float] = {}
        self._found: dict[Engine, Expected | None] = {}

    def __call__(self, targets: "Sequence[Target]") -> "Mapping[str, Expected]":
        engines = [(target.url, target.role) for target in targets]
        now = time.monotonic()
        due = [e for e in engines if now - self._asked_at.get(e, -REFRESH_S) >= REFRESH_S]
        if due:
            self._asked_at |= dict.fromkeys(due, now)
            threading.Thread(target=self._look, args=(due,), daemon=True).start()
        return {e[0]: found for e in engines if (found := self._found.get(e)) is not None}

    def _look(self, engines: Sequence[Engine]) -> None:
        import asyncio

        from pdctl.errors import PdctlError
        from pdctl.measurement.calibrate_engines import facts_of

        for engine in engines:
            try:
                (facts,) = asyncio.run(facts_of([engine[0]]))
                found = _expected(facts) if facts.role == engine[1] else None
            except PdctlError:  # it does not answer, or its model or GPU is one nobody knows
                found = None
            self._found[engine] = found


def _expected(facts: "EngineFacts") -> "Expected | None":
    from pdctl.commands.measure_help import cluster_behind
    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.prediction import engine_model, profile_for
    from pdctl.perf_model.profiles import error_band
    from pdctl.status.drifted import Expected

    llm, cluster = read_llm(facts.model), cluster_behind("", facts)
    profile = profile_for(facts, llm, cluster) if cluster else None
    if cluster is None or profile is None:
        return None
    model = engine_model(facts, llm, cluster, profile)
    return Expected(
        role=facts.role,
        profile=profile.id,
        times=model.times,
        chunk=model.chunked_prefill_size,
        kv_tokens=model.kv_capacity_tokens,
        dp=model.parallelism.dp,
        band=error_band(profile, llm),
    )
