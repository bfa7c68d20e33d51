"""Expected step times of running engines, which `status` compares with measured ones."""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence

from pdctl.errors import PdctlError
from pdctl.inspection.llm import read_llm
from pdctl.measurement.calibration.engine_client import facts_of_engines
from pdctl.measurement.engine_facts import EngineFacts
from pdctl.measurement.prediction import cluster_behind, predicted_engine, profile_for
from pdctl.perf_model.fitting.profiles import error_band
from pdctl.perf_model.records import Role
from pdctl.status.drift import Expected
from pdctl.status.records import Target

WAIT_S = 2.0
REFRESH_S = 120.0  # ask an engine again after this time; it may answer or have a profile by then

EngineKey = tuple[str, Role]


class Expectation:
    """Expected step times by engine URL. Asks each engine again and again.

    Has no entry for an engine that has not answered yet or has no measured profile.
    in_background: return what is known so far; else answers are awaited for WAIT_S.
    """

    def __init__(self, *, in_background: bool) -> None:
        self._in_background = in_background
        self._asked_at: dict[EngineKey, float] = {}
        self._found: dict[EngineKey, Expected | None] = {}

    def __call__(self, targets: Sequence[Target]) -> Mapping[str, Expected]:
        engines = [(target.url, target.role) for target in targets]
        now = time.monotonic()
        due = [e for e in engines if now - self._asked_at.get(e, -REFRESH_S) >= REFRESH_S]
        if due:
            self._asked_at |= dict.fromkeys(due, now)
            thread = threading.Thread(target=self._look, args=(due,), daemon=True)
            thread.start()
            if not self._in_background:
                thread.join(WAIT_S)
        return {e[0]: found for e in engines if (found := self._found.get(e)) is not None}

    def _look(self, engines: Sequence[EngineKey]) -> None:
        for engine in engines:
            try:
                (facts,) = asyncio.run(facts_of_engines([engine[0]]))
                found = _expected(facts) if facts.role == engine[1] else None
            except PdctlError:  # it does not answer, or pdctl does not know its model or GPU
                found = None
            self._found[engine] = found


def _expected(facts: EngineFacts) -> Expected | None:
    """Expected step times of an engine. None if no profile fits it."""
    llm, cluster = read_llm(facts.model), cluster_behind("", facts)
    profile = profile_for(facts, llm, cluster) if cluster else None
    if cluster is None or profile is None:
        return None
    model = predicted_engine(facts, llm, cluster, profile)
    return Expected(
        role=facts.role,
        profile=profile.id,
        times=model.times,
        chunk=model.chunked_prefill_size,
        kv_tokens=model.kv_capacity_tokens,
        dp=model.parallelism.dp,
        band=error_band(profile, llm),
    )
