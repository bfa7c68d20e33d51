"""One verdict for a fleet, and the sums advice is given from."""

from dataclasses import replace

import pytest

from pdctl.status.records import (
    Advice,
    DeploymentStatus,
    EngineStatus,
    RouterScrape,
    Scrape,
    Target,
    Watched,
)
from pdctl.status.snapshot import (
    deployment_status,
    engine_status,
    is_well,
    moment_of,
    queue_length,
    with_live_role,
)
from tests.status.fleets import BUSY, DECODE, PREFILL

ROUTER = RouterScrape(at_s=0.0, alive=True, ready=True)
WATCHED = Watched("chat", "m", "http://r", (), "http://r:30000", phase="serving")
TARGET = Target("decode-0", "decode", "http://127.0.0.1:1")
NO_ADVICE = Advice("healthy", "")


def judged(
    engines: tuple[EngineStatus, ...] = BUSY.engines,
    router: RouterScrape | None = ROUTER,
    watched: Watched = WATCHED,
) -> DeploymentStatus:
    return deployment_status(watched, engines, router, NO_ADVICE, 0.0)


def sick(health: str, problem: str = "") -> tuple[EngineStatus, ...]:
    broken = replace(BUSY.engines[3], health=health, problem=problem)  # type: ignore[arg-type]
    return (*BUSY.engines[:3], broken)


def test_a_fleet_whose_engines_and_router_answer_serves() -> None:
    assert (judged().verdict, judged().verdict_text) == ("serving", "")
    assert judged().layout == "2P2D"


@pytest.mark.parametrize(
    ("engines", "router", "verdict", "words"),
    [
        ((), ROUTER, "down", "no engines"),
        (BUSY.engines, None, "down", "router does not answer at http://r:30000"),
        (BUSY.engines, replace(ROUTER, alive=False), "down", "router does not answer"),
        (BUSY.engines, replace(ROUTER, ready=False), "degraded", "no healthy pair"),
        (sick("unreachable", "connection refused"), ROUTER, "degraded", "decode-1 does not answer"),
        (sick("stale"), ROUTER, "degraded", "decode-1 hangs"),
        (sick("starting"), ROUTER, "degraded", "decode-1 is starting"),
        (sick("failed", "exit 137"), ROUTER, "degraded", "decode-1 has failed (exit 137)"),
        (sick("up")[:2], ROUTER, "serving", ""),
        ((*BUSY.engines[:2], *sick("failed")[3:]), ROUTER, "down", "no decode engine serves"),
    ],
)
def test_the_verdict_names_what_is_wrong(
    engines: tuple[EngineStatus, ...], router: RouterScrape | None, verdict: str, words: str
) -> None:
    status = judged(engines, router)
    assert status.verdict == verdict
    assert words in status.verdict_text


def test_a_killed_router_is_named_though_engines_wait_to_be_registered_again() -> None:
    watched = replace(WATCHED, router_problem="was killed (SIGKILL); restarting 1 s later")
    engines = tuple(replace(one, health="starting") for one in BUSY.engines)
    status = judged(engines, None, watched)
    assert status.verdict == "down"
    assert status.verdict_text == "the router was killed (SIGKILL); restarting 1 s later"


def test_engines_on_their_way_are_no_trouble_while_a_change_goes_well() -> None:
    changing = replace(WATCHED, phase="scaling", detail="decode-1 loading")
    status = judged(sick("starting"), watched=changing)
    assert (status.verdict, status.verdict_text) == ("scaling", "decode-1 loading")
    assert judged(sick("unreachable"), watched=changing).verdict == "degraded"


def test_an_open_circuit_breaker_degrades_though_the_router_says_it_is_ready() -> None:
    engines = (*BUSY.engines[:3], replace(BUSY.engines[3], breaker="open"))
    assert judged(engines).verdict_text == "the router's circuit breaker of decode-1 is open"


def test_engines_that_start_make_a_fleet_that_starts() -> None:
    starting = tuple(replace(one, health="starting", sample=None) for one in BUSY.engines)
    assert judged(starting, None).verdict == "starting"
    assert judged(starting, None).verdict_text == "0 of 4 engines serve"


@pytest.mark.parametrize(
    ("phase", "words"),
    [("stopping", "being stopped"), ("stopped", "has stopped"), ("failed", "it has failed: boom")],
)
def test_a_deployment_that_ended_is_down_whoever_still_answers(phase: str, words: str) -> None:
    status = judged(watched=replace(WATCHED, phase=phase, detail="boom"))
    assert status.verdict == "down"
    assert words in status.verdict_text
    assert status.advice.what == "No advice while it is down."


def test_what_is_wrong_with_the_watch_is_said_when_all_else_is_well() -> None:
    assert judged(watched=replace(WATCHED, note="no supervisor")).verdict_text == "no supervisor"


@pytest.mark.parametrize("phase", ["starting", "loading", "registering"])
def test_an_engine_that_loads_is_not_called_unreachable(phase: str) -> None:
    row = engine_status(
        replace(TARGET, phase=phase, detail="weights"), Scrape(0.0, problem="x"), None, 0.0, None
    )
    assert (row.health, row.problem) == ("starting", "weights")


def test_an_engine_that_hangs_keeps_its_last_sample_and_grows_old() -> None:
    last = Scrape(at_s=10.0, sample=DECODE, age_s=0.5)
    row = engine_status(TARGET, None, last, 14.0, "closed")
    assert (row.health, row.age_s, row.sample) == ("unreachable", 4.5, DECODE)


def test_numbers_that_do_not_change_are_stale_though_the_engine_answers() -> None:
    last = Scrape(at_s=10.0, sample=DECODE, age_s=7.0)
    row = engine_status(TARGET, last, last, 10.0, None)
    assert (row.health, row.problem) == ("stale", "its numbers are 7 s old")


def test_an_engine_in_another_role_than_registered_is_not_well() -> None:
    target = with_live_role(TARGET, PREFILL)
    assert target.problem == "registered as decode but runs as prefill"
    assert with_live_role(TARGET, DECODE) == TARGET
    row = engine_status(target, Scrape(0.0, PREFILL), Scrape(0.0, PREFILL), 0.0, None)
    assert row.health == "up"
    assert not is_well(row)


def test_a_moment_adds_up_queues_and_averages_latency() -> None:
    moment = moment_of(BUSY.engines, 7.0, 3.0, restarted=False)
    assert (moment.waiting, moment.inflight, moment.running, moment.requests) == (79, 6, 47, 7.0)
    assert moment.kv_usage == pytest.approx(0.31)
    assert moment.itl_s == pytest.approx(0.014)
    assert (moment.num_prefill, moment.num_decode) == (2, 2)


def test_a_sum_is_unknown_while_one_engine_of_the_role_is_silent() -> None:
    engines = (replace(BUSY.engines[0], health="unreachable"), *BUSY.engines[1:])
    moment = moment_of(engines, None, 3.0, restarted=False)
    assert moment.waiting is None
    assert moment.running == 47


def test_the_queue_of_an_engine_is_all_that_waits_there() -> None:
    assert queue_length(PREFILL) == 44
    assert queue_length(DECODE) == 1
    assert queue_length(None) is None


def test_where_one_engine_failed_and_no_queue_grows_the_others_are_said_to_keep_up() -> None:
    lost = replace(BUSY.engines[0], health="failed", problem="was killed")
    healthy = Advice("healthy", "Nothing to change.", "no queue backs up")
    status = deployment_status(WATCHED, (lost, *BUSY.engines[1:]), ROUTER, healthy, 0.0)
    assert status.verdict == "degraded"
    assert status.advice.what == "The engines that serve keep up."


def test_numbers_of_an_engine_that_fell_silent_are_said_to_be_old() -> None:
    silent = replace(BUSY.engines[0], health="unreachable", age_s=31.0, problem="no answer in time")
    status = deployment_status(WATCHED, (silent, *BUSY.engines[1:]), ROUTER, NO_ADVICE, 0.0)
    said = "prefill-0 does not answer (no answer in time; its numbers are 31 s old)"
    assert status.verdict_text == said


def test_what_failed_and_that_nothing_restarts_it_are_both_said() -> None:
    watched = replace(WATCHED, note="its supervisor is gone")
    silent = replace(BUSY.engines[0], health="unreachable", age_s=0.1, problem="refused")
    status = deployment_status(watched, (silent, *BUSY.engines[1:]), ROUTER, NO_ADVICE, 0.0)
    said = "prefill-0 does not answer (refused); its supervisor is gone"
    assert (status.verdict, status.verdict_text) == ("degraded", said)
    status = deployment_status(watched, BUSY.engines, None, NO_ADVICE, 0.0)
    assert status.verdict_text.endswith("does not answer at http://r:30000; its supervisor is gone")
