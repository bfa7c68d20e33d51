"""Which requests a rehearsal plays."""

from pathlib import Path

import pytest

from pdctl.commands.options.rehearsed_requests import Played, requests_to_play
from pdctl.deployment.records import PlannedFor
from pdctl.errors import InvalidInput
from tests.verdict.questions import TRACES

DRAWN = PlannedFor(
    gpus="8xH200", isl=4000, osl=300, isl_cv=0.5, osl_cv=0, rate=5, prefix_hit=0.5, seed=3
)


def played(
    planned: PlannedFor | None, trace: Path | None = None, *, duration_s: float = 40.0
) -> Played:
    return requests_to_play(trace, planned, duration_s=duration_s, time_unit="", no_input=True)


def test_drawn_requests_come_at_the_planned_rate_with_the_planned_lengths() -> None:
    found = played(DRAWN)
    requests = found.requests
    assert len(requests) == 300
    assert requests.arrival_s[-1] == pytest.approx(60, rel=0.2)
    assert sum(requests.isl) / 300 == pytest.approx(4000, rel=0.15)
    assert set(requests.osl) == {300}
    assert requests.blocks is not None, "half of each prompt is shared"
    assert requests == played(DRAWN).requests, "the same seed"


def test_few_requests_a_second_are_played_for_longer_but_not_for_ever() -> None:
    slow = PlannedFor(gpus="8xH200", isl=4000, osl=300, rate=1)
    assert len(played(slow).requests) == 75
    crawling = PlannedFor(gpus="8xH200", isl=4000, osl=300, rate=0.01)
    assert len(played(crawling).requests) == 10


def test_the_planned_trace_is_played_as_it_was_read() -> None:
    trace = TRACES["azure"]
    planned = PlannedFor(gpus="8xH200", trace=str(trace), rate=3.0)
    found = played(planned, duration_s=5.0)
    assert found.requests.arrival_s[-1] <= 5.0
    assert trace.name in found.source


def test_a_file_of_lengths_is_played_over_again_at_the_planned_rate() -> None:
    planned = PlannedFor(gpus="8xH200", trace=str(TRACES["vidur"]), rate=5.0)
    found = played(planned)
    assert len(found.requests) == 300
    assert found.requests.isl[0] == found.requests.isl[20], "the file has 20 rows"


def test_clients_of_a_closed_loop_send_several_requests_each() -> None:
    planned = PlannedFor(gpus="8xH200", isl=4000, osl=300, concurrency=64)
    found = played(planned)
    assert found.clients == 64
    assert len(found.requests) == 640, "ten per client, as in the plan"
    many = PlannedFor(gpus="8xH200", isl=4000, osl=300, concurrency=1000)
    assert len(played(many).requests) == 3000


def test_a_trace_given_comes_before_the_planned_requests() -> None:
    given = played(DRAWN, TRACES["azure"])
    assert given.source == TRACES["azure"].name


def test_without_a_plan_a_public_trace_is_played() -> None:
    assert played(None).source == "a public trace"


def test_a_plan_without_a_rate_cannot_be_played() -> None:
    with pytest.raises(InvalidInput, match="no rate"):
        played(PlannedFor(gpus="8xH200", isl=4000, osl=300))
