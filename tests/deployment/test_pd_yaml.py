import dataclasses
import os
import stat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pdctl.deployment.pd_yaml import (
    KEYS,
    PLANNED_KEYS,
    ROLE_KEYS,
    ROUTER_KEYS,
    SLO_KEYS,
    deployment_yaml,
    parse_deployment,
    read_deployment,
    write_deployment,
)
from pdctl.deployment.records import (
    Container,
    Deployment,
    ObservePlan,
    PlannedFor,
    RolePlan,
    RouterPlan,
)
from pdctl.errors import EnvironmentProblem, InvalidInput, PdctlError
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import split

MINIMAL = "schema: 1\nmodel: qwen3-8b\nprefill: {engines: 1}\ndecode: {engines: 3}\n"
EVERYTHING = Deployment(
    name="a-name",
    model="Qwen/Qwen3-32B",
    roles={
        "prefill": RolePlan(2, Parallelism(tp=4), ("--chunked-prefill-size", "8192")),
        "decode": RolePlan(
            1,
            Parallelism(tp=8, pp=2, dp=4, ep=8),
            ("--json-model-override-args", '{"a": "b c"}', "--mem-fraction-static=0.8"),
            {"NCCL_DEBUG": "INFO", "ODD": "yes: #1 'x'"},
            "decode:1",
        ),
    },
    engine="sim",
    router=RouterPlan("0.0.0.0", 31000, "round_robin", ("--queue-size", "10")),
    gpus="2x8xH200:rdma400",
    place="pack",
    transfer_backend="nixl",
    python="/opt/a b/bin/python",
    container=Container(
        "podman",
        "registry/sglang:1",
        python="/venv/bin/python",
        mounts=("/lustre:/lustre", "/cache:/root/.cache"),
        devices=("/dev/infiniband",),
        shared_memory="64g",
        ulimits=("memlock=-1",),
        options=("--env", "HF_TOKEN", "--label=a b"),
    ),
    trust_remote_code=True,
    request_times=False,
    sim_speed=12.5,
    observe=ObservePlan("127.0.0.1:9464", "[::1]:4317", what_if=False),
    ttft_slo_s=1.234567,
    tpot_slo_s=0.04,
    attainment_slo=0.99,
    planned=PlannedFor(
        gpus="2x8xH200:rdma400",
        trace="/traces/a b.jsonl",
        time_unit="ms",
        skip_bad=True,
        isl=4000,
        osl=300,
        isl_cv=1.31,
        osl_cv=0.0,
        prefix_hit=0.1 + 0.2,
        rate=3.4,
        concurrency=64,
        spec_draft_tokens=3,
        spec_accept_length=2.4,
        profile="h200",
        seed=-7,
    ),
    predicted={"ttft_p50_s": 0.1 + 0.2, "goodput_rps": 5.0},
)


def test_a_deployment_reads_back_as_it_was_written(tmp_path: Path) -> None:
    for deployment in (EVERYTHING, split()):
        write_deployment(deployment, tmp_path / "pd.yaml")
        assert read_deployment(tmp_path / "pd.yaml") == deployment
    assert [p.name for p in tmp_path.iterdir()] == ["pd.yaml"]


@example(args=["--x=\x85"], env={}, model="0", slo_s=1.0)
@given(
    args=st.lists(st.text(max_size=8).map(lambda s: f"--x={s}"), max_size=3),
    env=st.dictionaries(st.text(max_size=5), st.text(max_size=8), max_size=2),
    model=st.text(min_size=1, max_size=20).filter(str.strip),
    slo_s=st.floats(1e-6, 1e5),
)
def test_any_text_and_number_survives_the_file(
    args: list[str], env: dict[str, str], model: str, slo_s: float
) -> None:
    plan = RolePlan(1, args=tuple(args), env=env)
    before = split(model=model, roles={"prefill": plan, "decode": plan}, ttft_slo_s=slo_s)
    assert parse_deployment(deployment_yaml(before)) == before


def test_what_is_left_out_is_at_its_default() -> None:
    deployment = parse_deployment(MINIMAL)
    assert deployment.layout == "1P3D"
    assert (deployment.name, deployment.router) == ("qwen3-8b", RouterPlan())


def test_flags_may_be_a_line_a_list_or_a_mapping_and_shared_by_the_roles() -> None:
    ways = (
        "'--page-size 32 --enable-mixed-chunk'",
        "[--page-size, '32', --enable-mixed-chunk]",
        "{page_size: 32, enable-mixed-chunk: true, disable-radix-cache: false}",
    )
    for way in ways:
        deployment = parse_deployment(f"{MINIMAL}args: {way}\n")
        expected = ("--page-size", "32", "--enable-mixed-chunk")
        assert {plan.args for plan in deployment.roles.values()} == {expected}


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        (
            MINIMAL + "rooter: {port: 1}",
            "line 5: 'rooter' is not a known key",
            "did you mean router?",
        ),
        (MINIMAL + "trust-remote-code: 1", "'trust-remote-code'", "trust_remote_code?"),
        (
            MINIMAL.replace("engines: 3", "engines: 3, servers: 1"),
            "line 4: 'decode.servers' is not a known key",
            "known keys: engines",
        ),
        (MINIMAL + "model: other", "line 5: model appears twice", "keep one"),
        (MINIMAL.replace("schema: 1", "schema: 2"), "schema 2 is newer", "a newer pdctl"),
        (MINIMAL.replace("schema: 1\n", ""), "has no schema", "schema: 1"),
        (MINIMAL.replace("model: qwen3-8b\n", ""), "has no model", "model:"),
        (MINIMAL.replace("engines: 1", "engines: 0"), "whole number of at least 1, not '0'", ""),
        (MINIMAL.replace("engines: 1", "engines: many"), "line 3: prefill.engines must", ""),
        (MINIMAL.replace("engines: 1", "tp: 1"), "no engine count", "engines: 2"),
        (MINIMAL.replace("prefill: {engines: 1}\n", ""), "engines for decode, but", "colocated"),
        (MINIMAL + "colocated: {engines: 2}", "prefill and decode and colocated", ""),
        (MINIMAL + "engine: vllm", "must be sglang or sim, not 'vllm'", ""),
        (MINIMAL + "sim_speed: 0", "above zero", "sim_speed: 1.0"),
        (MINIMAL + "sim_speed: .inf", "finite number, not '.inf'", ""),
        (MINIMAL + "slo: {ttft: fast}", "slo.ttft must be a duration, not 'fast'", "500ms"),
        (MINIMAL + "trust_remote_code: perhaps", "must be true or false", ""),
        (MINIMAL + "router: {port: 70000}", "70000 is not a valid port", "--port"),
        (MINIMAL + "router: {policy: best}", "no policy 'best'", "cache_aware"),
        (MINIMAL + "name: ../x", "'../x' is not a valid deployment name", "--name"),
        (MINIMAL + "args: '--page \"'", "cannot be split into flags", ""),
        (MINIMAL + "args: '--port 1'", "--port cannot be set in prefill.args", "remove it"),
        (MINIMAL + "router:", "router must be a mapping of keys", "known keys: host"),
        (MINIMAL + "a: [", "line 5: not YAML", ""),
        ("", "is empty", "pdctl plan"),
        ("- 1", "must be a mapping of keys", ""),
        ("a: " + "[" * 100_000, "not YAML", ""),
        ("a: !!python/object/apply:os.system ['true']", "'a' is not a known key", "known keys"),
    ],
)
def test_what_it_does_not_understand_is_refused_by_line(text: str, words: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_deployment(text)
    assert words in error.value.message
    assert hint in error.value.hint
    assert error.value.message.startswith("pd.yaml")


@given(st.text(max_size=80))
def test_no_text_makes_it_fail_in_another_way(text: str) -> None:
    for candidate in (text, f"{MINIMAL}{text}", MINIMAL.replace("1}", f"{text}}}")):
        try:
            parse_deployment(candidate)
        except PdctlError:
            continue


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        read_deployment(tmp_path / "none.yaml")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (1 << 21))
    with pytest.raises(InvalidInput, match="larger than 1 MiB"):
        read_deployment(large)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "pd.yaml").mkdir()
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        write_deployment(split(), tmp_path / "pd.yaml")
    assert stat.S_ISDIR((tmp_path / "pd.yaml").stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["pd.yaml"]


MILES = """
sglang:
  - name: actor
    model_path: /models/qwen
    num_gpus_per_engine: 2
    server_groups:
      - worker_type: prefill
        num_gpus: 4
      - worker_type: decode
        num_gpus: 8
        num_gpus_per_engine: 4
        overrides: {mem_fraction_static: 0.8, dp_size: 4, enable_dp_attention: true,
                    disable_overlap_schedule: true}
"""


def test_a_miles_file_with_one_model_is_a_deployment(tmp_path: Path) -> None:
    path = tmp_path / "miles.yaml"
    path.write_text(MILES)
    deployment = read_deployment(path)
    assert (deployment.layout, deployment.model, deployment.name) == (
        "2P2D",
        "/models/qwen",
        "qwen",
    )
    decode = deployment.roles["decode"]
    assert decode.parallelism == Parallelism(tp=4, dp=4)
    assert decode.args == ("--mem-fraction-static", "0.8", "--disable-overlap-schedule")
    assert deployment.roles["prefill"] == RolePlan(2, Parallelism(tp=2))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("worker_type: prefill", "worker_type: placeholder", "'placeholder'"),
        ("worker_type: prefill", "worker_type: decode", "second group of decode"),
        ("worker_type: prefill", "worker_type: regular", "colocated and decode"),
        ("num_gpus: 4", "num_gpus: 3", "3 is not a multiple of the 2 GPUs per engine"),
        ("    model_path: /models/qwen\n", "", "no model_path"),
        ("num_gpus: 8", "num_gpu: 8", "not a known key"),
        ("mem_fraction_static: 0.8", "host: 0.0.0.0", "--host cannot be set"),
        ("mem_fraction_static: 0.8", "pp_size: 3", "pp_size 3 does not divide 4"),
    ],
)
def test_a_miles_file_only_miles_can_run_is_refused(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    path = tmp_path / "miles.yaml"
    path.write_text(MILES.replace(old, new))
    with pytest.raises(InvalidInput) as error:
        read_deployment(path)
    assert words in error.value.message


def test_a_miles_file_of_two_models_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "miles.yaml"
    path.write_text(MILES + "  - {name: ref, model_path: x, server_groups: []}\n")
    with pytest.raises(InvalidInput, match="describes 2 models"):
        read_deployment(path)


def test_every_field_of_a_deployment_is_in_the_file() -> None:
    changed = {
        f.name
        for f in dataclasses.fields(Deployment)
        if getattr(EVERYTHING, f.name) != getattr(split(), f.name)
    }
    assert changed == {f.name for f in dataclasses.fields(Deployment)}


def test_the_documented_file_holds_every_key_and_can_be_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pd-yaml.md").read_text(encoding="utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    deployment = parse_deployment(example)
    assert deployment.layout == "1P2D"
    assert deployment.roles["prefill"].args[:2] == ("--page-size", "64")
    for key in {*KEYS, *ROLE_KEYS, *ROUTER_KEYS, *SLO_KEYS, *PLANNED_KEYS} - {"colocated"}:
        assert f"{key}:" in example, key


def test_a_link_left_beside_the_file_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".pd.yaml.{os.getpid()}").symlink_to(victim)
    deployment = Deployment("x", "m", {"colocated": RolePlan(1)})
    write_deployment(deployment, tmp_path / "pd.yaml")
    assert victim.read_text() == "precious"
    assert read_deployment(tmp_path / "pd.yaml") == deployment


@pytest.mark.parametrize("level", ["30", "1m"])
def test_a_service_level_in_a_file_needs_a_clear_unit_too(level: str) -> None:
    text = "schema: 1\nname: a\nmodel: m\ncolocated: {engines: 1}\n" + f"slo: {{tpot: {level}}}\n"
    with pytest.raises(InvalidInput, match="must be a duration") as caught:
        parse_deployment(text)
    assert "ms" in caught.value.hint
