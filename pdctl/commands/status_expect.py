"""What profiles say of the engines that `status` watches, looked up in the background."""

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pdctl.perf_model.records import Role

if TYPE_CHECKING:
    from pdctl.measurement.engine_facts import EngineFacts
    from pdctl.status.drifted import Expected
    from pdctl.status.records import Target

Engines = frozenset[tuple[str, Role]]


class Expectation:
    """Asks engines for what they are when they are new or have changed their role.

    Empty until they have answered; engines without a measured profile are left out.
    """

    def __init__(self) -> None:
        self._asked: Engines | None = None
        self._found: Mapping[str, Expected] = {}

    def __call__(self, targets: "Sequence[Target]") -> "Mapping[str, Expected]":
        engines = frozenset((target.url, target.role) for target in targets)
        if engines != self._asked:
            self._asked, self._found = engines, {}
            threading.Thread(target=self._look, args=(engines,), daemon=True).start()
        return self._found

    def _look(self, engines: Engines) -> None:
        import asyncio

        from pdctl.errors import PdctlError
        from pdctl.measurement.calibrate_engines import facts_of

        try:
            facts = asyncio.run(facts_of([url for url, _ in engines]))
            found = {one.url: e for one in facts if (e := _expected(one)) is not None}
        except PdctlError:  # an engine that does not answer, a model or GPU nobody knows
            return
        if engines == self._asked:
            self._found = found


def _expected(facts: "EngineFacts") -> "Expected | None":
    from pdctl.commands.calibrate_wish import cluster_of
    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.prediction import engine_model, profile_for
    from pdctl.perf_model.profiles import error_band
    from pdctl.status.drifted import Expected

    llm, cluster = read_llm(facts.model), cluster_of("", facts)
    profile = profile_for(facts, llm, cluster)
    if profile is None:
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
