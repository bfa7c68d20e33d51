from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdctl.errors import EngineFailed, InvalidInput
from pdctl.perf_model.records import Role
from pdctl.status.observed_workload import RouterCounters, watch_workload, workload_between
from pdctl.status.records import CounterSample, Target
from tests.status.servers import Pages, pages_server

PAGE = (Path(__file__).parent.parent / "data/captures/metrics_colocated_0.5.15.txt").read_text()


def counted(role: Role, **grown: Any) -> RouterCounters:
    """An engine whose counters stood at 1000 each."""
    before = after = CounterSample()
    for name, much in grown.items():
        before = replace(before, **dict[str, Any]({name: 1000.0}))
        after = replace(after, **{name: 1000 + much})
    return RouterCounters(role, before, after)


def colocated(requests: float = 100.0) -> RouterCounters:
    return counted(
        "colocated",
        requests=requests,
        prefill_tokens=3000 * requests,
        cached_tokens=1000 * requests,
        decode_tokens=199 * requests,
    )


def test_colocated_engines_count_prompts_and_output() -> None:
    seen = workload_between([colocated(), colocated(300.0)], 40.0)
    assert seen.isl is not None
    assert seen.osl is not None
    assert (seen.isl.mean, seen.osl.mean) == (4000, 200)
    assert (seen.rate_rps, seen.prefix_hit) == (10.0, 0.25)


def test_of_a_split_prefill_counts_prompts_and_decode_output() -> None:
    prefill = counted("prefill", requests=50, prefill_tokens=50_000, cached_tokens=0)
    decode = counted("decode", requests=50, prefill_tokens=0, decode_tokens=450)
    seen = workload_between([prefill, decode], 10.0)
    assert seen.isl is not None
    assert seen.osl is not None
    assert (seen.isl.mean, seen.osl.mean, seen.rate_rps) == (1000, 10, 5.0)


def test_too_few_requests_are_no_workload() -> None:
    with pytest.raises(InvalidInput, match="Only 19 requests finished in 30 s"):
        workload_between([colocated(19.0)], 30.0)


def test_an_engine_that_was_restarted_meanwhile_spoils_the_figures() -> None:
    fresh = RouterCounters("colocated", colocated().after, colocated().before)
    with pytest.raises(
        EngineFailed, match="1 of 2 engines do not count requests, or were restarted"
    ):
        workload_between([colocated(), fresh], 30.0)


def test_an_engine_that_has_had_no_request_yet_counts_nothing() -> None:
    silent = RouterCounters("colocated", CounterSample(), CounterSample())
    first = RouterCounters(
        "colocated", CounterSample(), colocated().before
    )  # its first came meanwhile
    assert workload_between([colocated(), silent], 10.0).rate_rps == 10.0
    assert workload_between([colocated(), first], 10.0).rate_rps == 110.0


def test_engines_of_which_none_counts_are_an_error() -> None:
    with pytest.raises(EngineFailed, match="1 of 1 engines do not count requests"):
        workload_between([RouterCounters("colocated", CounterSample(), CounterSample())], 10.0)


def test_a_router_without_engines_is_told_at_once() -> None:
    with pytest.raises(InvalidInput, match="lists no engines"):
        watch_workload([], 30.0, lambda waited_s: None)


def grown(page: str, factor: float) -> bytes:
    """A captured page of which every counter of requests and tokens is larger."""
    lines = []
    for line in page.splitlines():
        name, _, value = line.rpartition(" ")
        is_counter = name.startswith(("sglang:num_requests_total", "sglang:realtime_tokens_total"))
        lines.append(f"{name} {float(value) * factor}" if is_counter else line)
    return "\n".join(lines).encode()


def test_a_real_page_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdctl.status.observed_workload.TELL_EVERY_S", 0.05)
    pages: Pages = {"/metrics": (200, PAGE.encode())}
    told: list[float] = []

    def tell(waited_s: float) -> None:
        told.append(waited_s)
        pages["/metrics"] = (200, grown(PAGE, 2.0))

    with pages_server(pages) as url:
        seen = watch_workload([Target("colocated-0", "colocated", url)], 0.1, tell)
    assert told
    assert seen.isl is not None
    assert seen.isl.mean == pytest.approx(_value("prefill") / _value("requests"), rel=1e-6)
    assert seen.rate_rps is not None
    assert seen.rate_rps > 100


def _value(of: str) -> float:
    """Prompt tokens or requests on the captured page."""
    wanted: Callable[[str], bool] = (
        (lambda line: line.startswith("sglang:num_requests_total"))
        if of == "requests"
        else (lambda line: "realtime_tokens" in line and 'mode="prefill_' in line)
    )
    return sum(
        float(line.rpartition(" ")[2])
        for line in PAGE.splitlines()
        if wanted(line) and 'tp_rank="1"' not in line
    )


def test_an_engine_without_metrics_says_how_to_have_them() -> None:
    with pages_server({}) as url, pytest.raises(EngineFailed, match="has no /metrics") as problem:
        watch_workload([Target("colocated-0", "colocated", url)], 0.1, lambda waited_s: None)
    assert "--enable-metrics" in problem.value.hint
