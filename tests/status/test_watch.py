"""A watch over fake engines and a fake router that answer with captured pages."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pdctl.errors import EngineFailed, InvalidInput
from pdctl.status.drift import Expected
from pdctl.status.recent_times import RecentTimes
from pdctl.status.records import CounterSample, Moment, Scrape, Target, Watched
from pdctl.status.scrape import EngineScraper
from pdctl.status.targets import source_of_router, targets_of_router
from pdctl.status.watch import Watch, keep_evidence, read_evidence
from tests.status.servers import Pages, pages_server
from tests.verdict.examples import TIMES

CAPTURES = Path(__file__).parent.parent / "data" / "captures"


def page(name: str) -> tuple[int, bytes]:
    return 200, (CAPTURES / name).read_bytes()


def engine_pages(role: str) -> Pages:
    return {
        "/v1/loads": page(f"loads_{role}_0.5.23.json"),
        "/metrics": page(f"metrics_{role}_0.5.23.txt"),
        "/model_info": page(f"model_info_{role}_0.5.23.json"),
    }


class Fleet:
    """One prefill and one decode engine behind a router, all fake."""

    def __init__(self, prefill: str, decode: str, router: str, pages: dict[str, Pages]) -> None:
        self.prefill, self.decode, self.router, self.pages = prefill, decode, router, pages

    def watched(self) -> Watched:
        return Watched(
            name="chat",
            model="m",
            endpoint=self.router,
            targets=(
                Target("prefill-0", "prefill", self.prefill),
                Target("decode-0", "decode", self.decode),
            ),
            router_url=self.router,
            router_metrics_port=int(self.router.rsplit(":", 1)[1]),
            phase="serving",
        )

    def router_metrics(self) -> bytes:
        """The captured page, of these engines."""
        text = page("router_metrics_0.3.2.txt")[1].decode()
        captured = (
            ("http://127.0.0.1:31001", self.prefill),
            ("http://127.0.0.1:31002", self.decode),
        )
        for before, now in captured:
            text = text.replace(before, now)
        return text.encode()

    def change_loads(self, role: str, **changes: Any) -> None:
        found = json.loads(self.pages[role]["/v1/loads"][1])
        found["loads"][0] |= changes
        self.pages[role]["/v1/loads"] = (200, json.dumps(found).encode())


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    pages: dict[str, Pages] = {r: engine_pages(r) for r in ("prefill", "decode")}
    pages["router"] = {"/readiness": (200, b"{}")}
    with (
        pages_server(pages["prefill"]) as prefill,
        pages_server(pages["decode"]) as decode,
        pages_server(pages["router"]) as router,
    ):
        listed = [
            {"id": "1", "url": prefill, "worker_type": "prefill", "is_healthy": True},
            {"id": "2", "url": decode, "worker_type": "decode", "is_healthy": True},
        ]
        pages["router"]["/workers"] = (200, json.dumps({"workers": listed}).encode())
        found = Fleet(prefill, decode, router, pages)
        pages["router"]["/metrics"] = (200, found.router_metrics())
        yield found


@pytest.fixture
def watch(fleet: Fleet) -> Iterator[Watch]:
    one = Watch(fleet.watched)
    yield one
    one.close()


def test_a_fleet_that_answers_serves(watch: Watch) -> None:
    status = watch.sample()
    assert (status.verdict, status.layout) == ("serving", "1P1D")
    assert [one.health for one in status.engines] == ["up", "up"]
    assert status.advice.cause == "not_enough_evidence"
    assert status.requests_per_s is None


def test_rates_come_from_two_samples(fleet: Fleet, watch: Watch) -> None:
    watch.sample()
    fleet.change_loads("prefill", total_prefill_uncached_tokens=25954)
    fleet.change_loads("decode", decode_moments=[926, 3220, 3e6, 12000, 13727168.0, 3220])
    fleet.pages["router"]["/metrics"] = (
        200,
        fleet.router_metrics().replace(b'"false"} 48', b'"false"} 60'),
    )
    status = watch.sample()
    prefill, decode = (one.sample for one in status.engines)
    assert prefill is not None
    assert prefill.tokens_per_s is not None
    assert prefill.tokens_per_s > 0
    assert decode is not None
    assert decode.itl_p50_s == pytest.approx(4.0 / 400)
    assert status.requests_per_s is not None
    assert status.requests_per_s > 0


def test_an_engine_that_left_its_profile_is_noted(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pdctl.status.drift.WINDOW_S", 0.0)
    expected = Expected("decode", "h200--x", TIMES, 8000, 100_000, 1, band=0.05)
    asked = []

    def expect(targets: Sequence[Target]) -> dict[str, Expected]:
        asked.append(len(targets))
        return {fleet.decode: expected}

    watch = Watch(fleet.watched, expect=expect)
    watch.sample()
    fleet.change_loads("decode", decode_moments=[1326, 4820, 60e6, 20000, 3e8, 4820])
    assert "decode-0 has drifted from its profile h200--x" in watch.sample().notes[0]
    assert asked == [2]
    watch.close()


def test_an_engine_that_counts_anew_was_restarted_and_gives_no_rates(
    fleet: Fleet, watch: Watch
) -> None:
    watch.sample()
    fleet.change_loads("prefill", total_prefill_uncached_tokens=3)
    status = watch.sample()
    assert watch.moments[-1].restarted
    assert status.engines[0].sample is not None
    assert status.engines[0].sample.tokens_per_s is None


def test_an_engine_that_fails_keeps_its_last_numbers(fleet: Fleet, watch: Watch) -> None:
    watch.sample()
    fleet.pages["decode"]["/v1/loads"] = (500, b"")
    status = watch.sample()
    assert status.engines[1].health == "unreachable"
    assert status.engines[1].problem == "HTTP 500"
    assert status.engines[1].sample is not None
    assert status.verdict == "down"


def test_an_engine_that_wants_a_key_is_said_so(fleet: Fleet, watch: Watch) -> None:
    fleet.pages["decode"]["/v1/loads"] = (401, b"")
    assert "PDCTL_API_KEY" in watch.sample().engines[1].problem


def test_numbers_that_stand_still_are_stale(fleet: Fleet, watch: Watch) -> None:
    fleet.change_loads("decode", timestamp=1795426100.0)
    assert watch.sample().engines[1].health == "stale"


def test_an_open_breaker_shows_on_its_engine(fleet: Fleet, watch: Watch) -> None:
    line = f'smg_worker_cb_state{{worker="{fleet.decode}"}} 1\n'
    fleet.pages["router"]["/metrics"] = (200, line.encode())
    status = watch.sample()
    assert status.engines[1].breaker == "open"
    assert status.verdict == "down"
    assert status.verdict_text.endswith("the router's circuit breaker of decode-0 is open")


def test_requests_of_another_router_on_that_port_do_not_count(fleet: Fleet, watch: Watch) -> None:
    fleet.pages["router"]["/metrics"] = page("router_metrics_0.3.2.txt")
    watch.sample()
    assert watch.moments[-1].requests is None


def scraped(target: Target) -> Scrape:
    scraper = EngineScraper(target)
    try:
        return scraper.scrape()
    finally:
        scraper.close()


def test_an_sglang_without_loads_is_read_by_its_metrics(fleet: Fleet) -> None:
    del fleet.pages["decode"]["/v1/loads"]
    fleet.pages["decode"]["/metrics"] = page("metrics_decode_0.5.15.txt")
    scrape = scraped(fleet.watched().targets[1])
    assert scrape.sample is not None
    assert scrape.sample.running == 1


def test_an_sglang_without_loads_and_metrics_is_read_by_get_load(fleet: Fleet) -> None:
    del fleet.pages["decode"]["/v1/loads"], fleet.pages["decode"]["/metrics"]
    fleet.pages["decode"]["/get_load"] = page("get_load_prefill_0.5.15.json")
    scrape = scraped(fleet.watched().targets[1])
    assert scrape.sample is not None
    assert scrape.sample.waiting == 0


def test_engines_are_found_from_the_router_and_asked_for_their_role(fleet: Fleet) -> None:
    fleet.pages["decode"]["/model_info"] = page("model_info_prefill_0.5.23.json")
    targets = targets_of_router(fleet.router)
    assert [(one.name, one.url) for one in targets] == [
        ("prefill-0", fleet.prefill),
        ("decode-0", fleet.decode),
    ]
    assert targets[0].problem == ""
    assert targets[1].problem == "registered as decode but runs as prefill"


def test_a_deployment_of_somebody_else_is_watched_but_not_commanded(fleet: Fleet) -> None:
    watched = source_of_router(fleet.router + "/")()
    assert watched.model == "tiny-llama"
    assert watched.phase is None


def test_no_router_there_is_an_error_that_says_so(fleet: Fleet) -> None:
    with pytest.raises(EngineFailed, match="No SGLang router answers"):
        targets_of_router(fleet.decode)


@pytest.mark.parametrize("url", ["", "host", "host:30000", "ftp://host", "http://", "http://h:x"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="is not the URL of a router"):
        targets_of_router(url)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    (tmp_path / "chat").mkdir()
    return tmp_path / "chat"


def test_what_one_run_saw_is_known_to_the_next(home: Path) -> None:
    moments = [Moment(at_s=float(i), num_prefill=1, num_decode=1) for i in range(5)]
    counters = CounterSample(requests=3.0, ttft=((0.1, 1.0), (float("inf"), 3.0)))
    keep_evidence("chat", moments, {"http://a": {"loads": (4.0, counters)}})
    past, known = read_evidence("chat", since_s=2.0)
    assert past == tuple(moments[2:])
    assert known == {"http://a": {"loads": (4.0, counters)}}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"moments": 3}', '{"moments": [{}]}', "null"])
def test_a_past_that_is_unreadable_is_none(home: Path, text: str) -> None:
    (home / "samples.json").write_text(text, encoding="utf-8")
    assert read_evidence("chat", since_s=0.0) == ((), {})


def test_where_nothing_can_be_written_nothing_is_kept(home: Path) -> None:
    keep_evidence("missing", [], {})
    assert read_evidence("missing", since_s=0.0) == ((), {})


def recorded_minute(fleet: Fleet, now_s: float) -> list[dict[str, Any]]:
    """What a supervisor recorded in the last minute, with a prefill queue that grows."""
    samples = []
    for seconds in range(0, 66, 5):
        pages = {}
        for role in ("prefill", "decode"):
            found = json.loads(fleet.pages[role]["/v1/loads"][1])
            del found["timestamp"]  # the fake engine's clock stands still
            if role == "prefill":
                found["loads"][0]["queues"]["waiting"] = seconds
            pages[role] = json.dumps(found)
        lines = f'smg_worker_cb_state{{worker="{fleet.prefill}"}} 0\n'
        samples.append(
            {
                "at": now_s - 66 + seconds,
                "engines": [
                    ["prefill-0", "prefill", fleet.prefill, "serving", pages["prefill"]],
                    ["decode-0", "decode", fleet.decode, "serving", pages["decode"]],
                ],
                "router": lines + f"smg_router_requests_total {20 + seconds}",
            }
        )
    return samples


def test_a_recorded_minute_gives_advice_at_the_first_sample(fleet: Fleet, watch: Watch) -> None:
    fleet.change_loads("prefill", queues={"waiting": 70})
    watch.replay(recorded_minute(fleet, time.time()))
    status = watch.sample()
    assert status.advice.cause == "prefill_bound"
    assert "waiting and growing for 60 s" in status.advice.why
    assert status.history["prefill-0"] == (70.0,)


def test_a_recorded_minute_shows_drift_at_the_first_sample(fleet: Fleet) -> None:
    expected = Expected("decode", "h200--x", TIMES, 8000, 100_000, 1, band=0.05)
    watch = Watch(fleet.watched, expect=lambda _: {fleet.decode: expected})
    watch.replay(recorded_minute(fleet, time.time()))
    fleet.change_loads("decode", decode_moments=[1326, 4820, 60e6, 20000, 3e8, 4820])
    assert "decode-0 has drifted from its profile h200--x" in watch.sample().notes[0]
    watch.close()


class Known(RecentTimes):
    """Times that are known."""

    def ttft_s(self) -> tuple[float, float]:
        return 0.25, 1.5


def test_times_of_single_requests_are_shown_instead_of_a_histograms(fleet: Fleet) -> None:
    watch = Watch(fleet.watched, times=Known(Path(), at_once=True))
    status = watch.sample()
    assert (status.ttft_p50_s, status.ttft_p99_s, status.ttft_bound_s) == (0.25, 1.5, None)
    watch.close()


def test_samples_recorded_twice_count_once(fleet: Fleet, watch: Watch) -> None:
    samples = recorded_minute(fleet, time.time())
    watch.replay(samples)
    watch.replay(samples)
    assert len(watch.moments) == len(samples)


@pytest.mark.parametrize("engines", [[["prefill-0"]], [None], [["p", "prefill", "u", "x", 3]]])
def test_a_record_of_another_version_is_skipped(watch: Watch, engines: list[Any]) -> None:
    watch.replay([{"at": time.time(), "engines": engines}])
    assert not watch.moments


def test_an_engine_that_left_no_page_counts_as_silent(fleet: Fleet, watch: Watch) -> None:
    engines = [["decode-0", "decode", fleet.decode, "serving", None]]
    watch.replay([{"at": time.time(), "engines": engines, "router": None}])
    (moment,) = watch.moments
    assert moment.engines[0].health == "unreachable"
    assert moment.running is None


def test_percentiles_of_an_engine_that_fell_silent_are_not_shown(
    fleet: Fleet, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pdctl.status.scrape.METRICS_EVERY_S", 0.0)
    for count in (10, 20):
        fleet.pages["decode"]["/metrics"] = (200, ttft_page(count))
        status = watch.sample()
    assert (status.ttft_p50_s, status.ttft_bound_s) == (0.1, 0.1)
    monkeypatch.setattr("pdctl.status.watch._FRESH_S", -1.0)
    assert watch.sample().ttft_p50_s is None


def ttft_page(count: int) -> bytes:
    """A page of metrics with `count` observations of TTFT, all in the first bucket."""
    line = "sglang:time_to_first_token_seconds_bucket"
    bounds = ("0.1", "0.2", "+Inf")
    return "".join(f'{line}{{le="{bound}"}} {count}\n' for bound in bounds).encode()


def test_counters_of_the_last_call_are_no_restart_of_the_minutes_recorded_before_it(
    fleet: Fleet,
) -> None:
    now_s = time.time()
    samples = recorded_minute(fleet, now_s)
    later = {"loads": (now_s - 1.0, CounterSample(decode_steps=1e9, prefill_tokens=1e12))}
    watch = Watch(fleet.watched, ((), {fleet.prefill: later, fleet.decode: later}))
    watch.replay(samples)
    assert not any(moment.restarted for moment in watch.moments)
    assert watch.counters()[fleet.decode]["loads"][0] == later["loads"][0]
    watch.close()


def test_a_prefill_engine_that_sends_nothing_has_no_bandwidth(fleet: Fleet, watch: Watch) -> None:
    disagg = {"mode": "prefill", "kv_transfer_speed_gb_s": 75.0, "prefill_inflight_queue_reqs": 0}
    fleet.change_loads("prefill", disaggregation=disagg)
    watch.sample()
    row = watch.sample().engines[0]
    assert row.sample
    assert (row.sample.tokens_per_s, row.sample.transfer_gb_per_s) == (0.0, None)
