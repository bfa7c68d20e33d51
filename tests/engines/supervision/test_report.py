"""One word for a whole deployment, from what its processes do."""

from dataclasses import replace

import pytest

from pdctl.engines.records import Listed
from pdctl.engines.supervision.model import Desired, Observed, Process
from pdctl.engines.supervision.report import deployment_detail, deployment_phase
from tests.engines.test_state import PROCESS, some_launch
from tests.engines.world import fleet_specs

SPECS = fleet_specs(1, 2)
SERVING = {
    spec.name: Process(
        spec,
        running=True,
        since=0.0,
        ready=True,
        served=True,
        listed=Listed(id="1", url=spec.url, role="decode", is_healthy=True),
    )
    for spec in SPECS
}
NEW = replace(SERVING["decode-1"], ready=False, served=False, listed=None)
UNHEALTHY = Listed(id="1", url=SPECS[-1].url, role="decode", is_healthy=False)


def phase(**changed: Process | None) -> str:
    """Of the deployment with some processes otherwise, or missing (None)."""
    named = {name.replace("_", "-"): process for name, process in changed.items()}
    processes = {n: p for n, p in {**SERVING, **named}.items() if p is not None}
    observed = Observed(processes=processes, was_ready=True)
    return deployment_phase(Desired(SPECS), observed, None, is_over=False)


@pytest.mark.parametrize(
    ("process", "word"),
    [
        (SERVING["decode-1"], "serving"),
        (None, "degraded"),
        (NEW, "scaling"),
        (replace(NEW, ready=True), "scaling"),
        (replace(NEW, ready=True, listed=UNHEALTHY), "scaling"),
        (replace(SERVING["decode-1"], deregister_sent=5.0, listed=None), "scaling"),
        (replace(SERVING["decode-1"], listed=UNHEALTHY), "degraded"),
        (replace(NEW, crashes=(1.0,)), "degraded"),
        (replace(NEW, running=False, crashes=(1.0,), exit_code=-9), "degraded"),
        (replace(NEW, running=False, given_up="crashed three times"), "degraded"),
        (replace(NEW, lost="its scheduler"), "degraded"),
        (replace(NEW, served=True, unanswered_since=3.0), "degraded"),
        (replace(NEW, ready=True, wrong_since=3.0), "degraded"),
        (replace(NEW, switch_failed="it says no"), "degraded"),
    ],
)
def test_what_is_on_its_way_scales_and_what_went_wrong_degrades(
    process: Process | None, word: str
) -> None:
    assert phase(decode_1=process) == word


def test_a_crash_that_is_mended_does_not_make_a_later_change_look_like_trouble() -> None:
    mended = replace(SERVING["prefill-0"], crashes=(1.0,))
    assert phase(prefill_0=mended, decode_1=NEW) == "scaling"


def test_engines_that_a_new_router_does_not_know_yet_are_trouble() -> None:
    router = replace(SERVING["router"], crashes=(1.0,))
    unknown = replace(SERVING["decode-1"], listed=None)
    assert phase(router=router, decode_1=unknown) == "degraded"


def test_what_is_missing_is_on_its_way_only_while_something_moves() -> None:
    leaving = replace(SERVING["prefill-0"], deregister_sent=5.0, listed=None)
    assert phase(prefill_0=leaving, decode_1=None) == "scaling"
    assert phase(decode_1=None) == "degraded"


def test_an_engine_that_serves_at_its_old_place_is_named_with_the_new_one() -> None:
    launch = some_launch()
    old = tuple(replace(PROCESS, name=s.name, url=s.url, phase="serving") for s in launch.specs)
    assert deployment_detail("degraded", old, launch) == ""
    *specs, decode = launch.specs
    moved = replace(launch, specs=(*specs, replace(decode, node="node3", port=decode.port + 1)))
    at_node2 = (*old[:-1], replace(old[-1], node="node2"))
    detail = deployment_detail("degraded", at_node2, moved)
    assert detail == "decode-0 still serves on node2, to move to node3"


def test_an_engine_that_has_not_started_is_named_with_the_reason_where_there_is_one() -> None:
    launch = some_launch()
    assert deployment_detail("degraded", (), replace(launch, specs=launch.specs[-1:])) == (
        "decode-0 not started yet"
    )
    waiting = {"decode-0": "waits for the place of decode-1"}
    detail = deployment_detail("degraded", (), replace(launch, specs=launch.specs[-1:]), waiting)
    assert detail == "decode-0 waits for the place of decode-1"
