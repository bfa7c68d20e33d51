"""The doctor's rules on a running deployment, applied to hand-made facts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdctl.deployment.records import ProcessSpec
from pdctl.doctor.deployment_facts import DeploymentFacts, EngineReport, ask_through_router
from pdctl.doctor.deployment_rules import deployment_checks
from pdctl.doctor.records import Check
from pdctl.engines.explain_log import LogExplanation
from pdctl.engines.records import Listed
from pdctl.perf_model.records import Role
from pdctl.status.records import EngineSample, RouterScrape, Scrape, Target
from tests.status.servers import pages_server

INFO: dict[str, Any] = {
    "page_size": 64,
    "kv_cache_dtype": "auto",
    "model_path": "m",
    "version": "0.5.15",
    "host": "127.0.0.1",
    "tp_size": 2,
    "attn_dp_size": 1,
    "max_total_num_tokens": 800_000,
    "max_req_input_len": 131_066,
    "disaggregation_transfer_backend": "nixl",
}
ROUTER_ARGV = (
    *("python", "-m", "sglang_router.launch_router", "--pd-disaggregation"),
    *("--host", "127.0.0.1", "--port", "30000"),
    *("--cb-timeout-duration-secs", "15", "--request-timeout-secs", "600"),
)


def _sample(role: Role, **values: Any) -> Scrape:
    return Scrape(at_s=0.0, sample=EngineSample(at_s=0.0, role=role, **values))


def _engine(name: str, port: int, bootstrap_port: int | None = None, **info: Any) -> EngineReport:
    role: Role = "prefill" if name.startswith("prefill") else "decode"
    return EngineReport(
        target=Target(name, role, f"http://127.0.0.1:{port}"),
        info={**INFO, **info},
        role=role,
        architectures=("LlamaForCausalLM",),
        bootstrap_port=bootstrap_port,
        registry={"prefill_http_port": port} if bootstrap_port else None,
        scrape=_sample(role, bootstrap=0, prealloc=0, retracted=0, kv_usage=0.3),
        transfer_failures=0,
    )


def _router(*more: str) -> ProcessSpec:
    return ProcessSpec(
        name="router",
        role="router",
        argv=(*ROUTER_ARGV, *more),
        env={},
        gpus=(),
        host="127.0.0.1",
        port=30000,
        log=Path("/x/router.log"),
    )


def _listed(engine: EngineReport) -> Listed:
    target = engine.target
    return Listed("id", target.url, target.role, True, engine.bootstrap_port)


def _seen(*engines: EngineReport, **changes: Any) -> DeploymentFacts:
    found = engines or (_engine("prefill-0", 20000, 21000), _engine("decode-0", 20010))
    well = DeploymentFacts(
        name="chat",
        router_url="http://127.0.0.1:30000",
        engines=found,
        workers=tuple(_listed(engine) for engine in found),
        router=RouterScrape(0.0, True, True, breakers={e.target.url: "closed" for e in found}),
        router_spec=_router(),
        supervised=True,
        has_rdma=False,
    )
    return replace(well, **changes)


def _of(seen: DeploymentFacts, id_: str) -> Check:
    found = [check for check in deployment_checks(seen) if check.id == id_]
    assert len(found) == 1, [check.id for check in deployment_checks(seen)]
    return found[0]


def test_a_healthy_deployment_passes_every_check() -> None:
    checks = deployment_checks(_seen())
    assert len(checks) >= 18
    assert {check.outcome for check in checks} == {"pass"}
    assert {check.deployment for check in checks} == {"chat"}


@pytest.mark.parametrize(
    ("key", "value", "id_", "outcome"),
    [
        ("page_size", 1, "page_size", "fail"),
        ("kv_cache_dtype", "fp8_e4m3", "kv_dtype", "fail"),
        ("model_path", "other", "same_model", "fail"),
        ("disaggregation_transfer_backend", "mooncake", "same_backend", "fail"),
        ("version", "0.5.14", "same_version", "warn"),
    ],
)
def test_engines_that_differ_are_named_with_their_values(
    key: str, value: object, id_: str, outcome: str
) -> None:
    odd = replace(_engine("decode-0", 20010), info={**INFO, key: value})
    check = _of(_seen(_engine("prefill-0", 20000, 21000), odd), id_)
    assert check.outcome == outcome
    assert f"{value} on decode-0" in check.text
    assert check.fix


def test_a_registry_that_names_another_engine_fails() -> None:
    wrong = replace(_engine("prefill-0", 20000, 21000), registry={"prefill_http_port": 20020})
    check = _of(_seen(wrong, _engine("decode-0", 20010)), "registries")
    assert check.outcome == "fail"
    assert "points to port 20020 instead of 20000" in check.text


def test_a_silent_registry_fails() -> None:
    silent = replace(_engine("prefill-0", 20000, 21000), registry=None)
    assert _of(_seen(silent, _engine("decode-0", 20010)), "registries").outcome == "fail"


def test_two_prefill_engines_with_one_bootstrap_port_fail() -> None:
    pair = (_engine("prefill-0", 20000, 21000), _engine("prefill-1", 20010, 21000))
    check = _of(_seen(*pair, _engine("decode-0", 20020)), "registries")
    assert "several engines use bootstrap port 21000" in check.text


@pytest.mark.parametrize("port", [None, 8998])
def test_a_bootstrap_port_the_router_has_wrong_fails(port: int | None) -> None:
    seen = _seen()
    rows = (replace(_listed(seen.engines[0]), bootstrap_port=port), _listed(seen.engines[1]))
    check = _of(replace(seen, workers=rows), "bootstrap_ports")
    assert check.outcome == "fail"
    assert f"prefill-0 uses 21000, the router {port}" in check.text


def test_an_engine_that_runs_in_another_role_fails() -> None:
    switched = replace(_engine("decode-0", 20010), role="prefill")
    check = _of(_seen(_engine("prefill-0", 20000, 21000), switched), "roles")
    assert check.outcome == "fail"
    assert "decode-0 runs as prefill" in check.text


def test_an_engine_registered_in_another_role_fails() -> None:
    seen = _seen()
    rows = (_listed(seen.engines[0]), replace(_listed(seen.engines[1]), role="prefill"))
    assert "the router lists decode-0 as prefill" in _of(replace(seen, workers=rows), "roles").text


def test_an_engine_the_router_does_not_have_fails() -> None:
    seen = _seen()
    check = _of(replace(seen, workers=(_listed(seen.engines[0]),)), "registered")
    assert (check.outcome, "decode-0" in check.text) == ("fail", True)


def test_an_engine_of_unknown_origin_warns() -> None:
    seen = _seen()
    stranger = Listed("id", "http://10.0.0.9:1", "decode", True)
    workers = (*(_listed(engine) for engine in seen.engines), stranger)
    check = _of(replace(seen, workers=workers), "registered")
    assert check.outcome == "warn"
    assert "http://10.0.0.9:1" in check.text


def test_an_open_circuit_breaker_fails_by_the_engines_name() -> None:
    seen = _seen()
    router = replace(seen.router, breakers={"http://127.0.0.1:20010": "open"})
    check = _of(replace(seen, router=router), "breakers")
    assert check.outcome == "fail"
    assert "decode-0 open" in check.text


def test_breakers_without_metrics_are_unknown_and_do_not_pass() -> None:
    seen = _seen()
    assert _of(replace(seen, router=RouterScrape(0.0, True, True)), "breakers").outcome == "unknown"


def test_failed_transfers_warn_with_their_number() -> None:
    bad = replace(_engine("prefill-0", 20000, 21000), transfer_failures=3)
    check = _of(_seen(bad, _engine("decode-0", 20010)), "transfer_failures")
    assert (check.outcome, "prefill-0 3" in check.text) == ("warn", True)


def test_power_of_two_warns_only_where_engines_lack_get_load() -> None:
    router = _router("--policy", "power_of_two")
    old = {check.id for check in deployment_checks(_seen(router_spec=router))}
    assert "policy" not in old
    new = [
        _engine(n, p, b, version="0.5.23")
        for n, p, b in (("prefill-0", 1, 2), ("decode-0", 3, None))
    ]
    assert _of(_seen(*new, router_spec=router), "policy").outcome == "warn"


def test_dp_aware_with_split_roles_fails() -> None:
    assert _of(_seen(router_spec=_router("--dp-aware")), "dp_aware").outcome == "fail"


def test_a_request_timeout_of_half_an_hour_warns() -> None:
    argv = tuple(a for a in ROUTER_ARGV if a not in ("--request-timeout-secs", "600"))
    spec = replace(_router(), argv=argv)
    assert _of(_seen(router_spec=spec), "request_timeout").outcome == "warn"


def test_requests_that_wait_for_a_full_decode_ask_for_more_decode() -> None:
    prefill = replace(_engine("prefill-0", 20000, 21000), scrape=_sample("prefill", bootstrap=41))
    decode = replace(
        _engine("decode-0", 20010), scrape=_sample("decode", prealloc=40, kv_usage=0.97)
    )
    check = _of(_seen(prefill, decode), "decode_room")
    assert check.outcome == "warn"
    assert "more decode" in check.fix


def test_different_attention_tp_warns_unless_the_model_has_mla() -> None:
    prefill, decode = _engine("prefill-0", 20000, 21000), _engine("decode-0", 20010, tp_size=4)
    assert _of(_seen(prefill, decode), "attention_tp").outcome == "warn"
    mla = [replace(e, architectures=("DeepseekV3ForCausalLM",)) for e in (prefill, decode)]
    assert "attention_tp" not in {check.id for check in deployment_checks(_seen(*mla))}


def test_a_prefill_engine_that_takes_more_than_it_holds_warns() -> None:
    small = _engine("prefill-0", 20000, 21000, max_total_num_tokens=50_000)
    check = _of(_seen(small, _engine("decode-0", 20010)), "capacity")
    assert check.outcome == "warn"
    assert "--context-length 50000" in check.fix


def test_mooncake_without_rdma_warns() -> None:
    pair = [
        _engine(name, port, bootstrap, disaggregation_transfer_backend="mooncake")
        for name, port, bootstrap in (("prefill-0", 20000, 21000), ("decode-0", 20010, None))
    ]
    assert _of(_seen(*pair), "transfer_path").outcome == "warn"
    assert "transfer_path" not in {c.id for c in deployment_checks(_seen(*pair, has_rdma=True))}


def test_a_prefill_registered_on_loopback_with_a_remote_decode_fails() -> None:
    decode = _engine("decode-0", 20010)
    far = replace(decode, target=replace(decode.target, url="http://10.0.0.2:20010"))
    assert _of(_seen(_engine("prefill-0", 20000, 21000), far), "reachable").outcome == "fail"


def test_engines_on_every_network_warn_naming_their_bootstrap_ports() -> None:
    pair = (_engine("prefill-0", 20000, 21000, host="0.0.0.0"), _engine("decode-0", 20010))
    check = _of(_seen(*pair), "exposed_engines")
    assert (check.outcome, "21000" in check.text) == ("warn", True)


def test_a_router_on_every_network_warns_unless_it_asks_for_a_key() -> None:
    argv = tuple("0.0.0.0" if a == "127.0.0.1" else a for a in ROUTER_ARGV)
    spec = replace(_router(), argv=argv)
    assert _of(_seen(router_spec=spec), "exposed").outcome == "warn"
    assert _of(_seen(router_spec=spec, has_key=True), "exposed").outcome == "pass"


def test_deepep_buffers_smaller_than_the_decode_batch_fail() -> None:
    decode = _engine("decode-0", 20010, moe_a2a_backend="deepep", max_running_requests=512)
    small = replace(decode, spec=_router())
    check = _of(_seen(_engine("prefill-0", 20000, 21000), small), "deepep_dispatch")
    assert check.outcome == "fail"
    assert "DISPATCH_TOKENS_PER_RANK: 512" in check.fix


@pytest.mark.parametrize(
    "sizes",
    [{"attn_dp_size": 8}, {"attn_dp_size": None, "dp_size": 8, "enable_dp_attention": True}],
)
def test_deepep_buffers_hold_the_batch_of_one_rank(sizes: dict[str, Any]) -> None:
    info = {"moe_a2a_backend": "deepep", "max_running_requests": 1024, **sizes}
    decode = replace(_engine("decode-0", 20010, **info), spec=_router())
    seen = _seen(_engine("prefill-0", 20000, 21000), decode)  # 128 rows are SGLang's default
    assert "deepep_dispatch" not in {check.id for check in deployment_checks(seen)}


def test_a_lost_supervisor_fails_with_the_command_that_brings_one() -> None:
    assert _of(_seen(supervised=False), "supervisor").fix == "pdctl up --resume --name chat"


def test_an_engine_that_does_not_answer_fails_with_the_cause_from_its_log() -> None:
    target = Target("decode-0", "decode", "http://127.0.0.1:20010", phase="backoff")
    why = LogExplanation("out_of_memory", "The GPU ran out of memory.", "a larger --tp", "CUDA oom")
    dead = EngineReport(target, died_of=why)
    check = _of(_seen(_engine("prefill-0", 20000, 21000), dead), "engines")
    assert check.outcome == "fail"
    assert "The GPU ran out of memory." in check.text
    assert check.fix == "a larger --tp"


def test_an_engine_that_still_loads_warns() -> None:
    target = Target("decode-0", "decode", "http://127.0.0.1:20010", "loading", "weights")
    check = _of(_seen(_engine("prefill-0", 20000, 21000), EngineReport(target)), "engines")
    assert check.outcome == "warn"


def test_troubles_in_a_log_warn_with_their_line() -> None:
    trouble = LogExplanation("mismatch", "KV differs.", "one --page-size", "Page size mismatch")
    noisy = replace(_engine("decode-0", 20010), troubles=(trouble,))
    check = _of(_seen(_engine("prefill-0", 20000, 21000), noisy), "log_mismatch")
    assert check.outcome == "warn"
    assert "Page size mismatch" in check.text


def test_a_foreign_deployment_is_asked_through_its_router() -> None:
    info = b'{"page_size": 1, "disaggregation_mode": "decode", "version": "0.5.23"}'
    engine_pages = {
        "/model_info": (200, b'{"disaggregation_mode": "decode"}'),
        "/server_info": (200, info),
    }
    with pages_server(engine_pages) as engine:
        row = f'{{"id": "1", "url": "{engine}", "worker_type": "decode", "is_healthy": true}}'
        pages = {"/workers": (200, f'{{"workers": [{row}]}}'.encode()), "/readiness": (503, b"")}
        with pages_server(pages) as router:
            seen = ask_through_router(router)
    assert [e.role for e in seen.engines] == ["decode"]
    assert seen.engines[0].info["page_size"] == 1
    assert not seen.has_key
    assert _of(seen, "roles").outcome == "pass"
    assert _of(seen, "router_alive").outcome == "fail"
