"""What SGLang's flags make of an engine, and which of their values it refuses."""

from dataclasses import replace
from functools import cache

import pytest

from pdctl.deployment.build import deployment_of
from pdctl.deployment.flags import engine_argv, engine_env, simulated_argv
from pdctl.deployment.records import PlannedFor, Ports, RolePlan
from pdctl.deployment.serving import (
    served_llm,
    serving_of,
    simulated_serving,
    simulated_speculation,
)
from pdctl.deployment.sglang_flags import options
from pdctl.errors import InvalidInput
from pdctl.hosts import LOOPBACK
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Llm
from pdctl.perf_model.engine_model import engine_model
from pdctl.perf_model.memory import (
    chunked_prefill_size,
    kv_capacity_tokens,
    max_running_requests,
    mem_fraction_static,
)
from pdctl.perf_model.records import SGLANG_DEFAULTS, EngineModel, Parallelism, Role, Serving

LLM = read_llm("qwen3-32b")
CLUSTER = parse_gpus("8xH200")
TP2 = Parallelism(tp=2)


def engine(args: str, parallelism: Parallelism = TP2) -> EngineModel:
    words = args.split()
    llm = served_llm(LLM, words)
    found = engine_model(llm, CLUSTER, parallelism, "colocated", serving=serving_of(words))
    assert found is not None
    return found


def test_without_flags_an_engine_has_sglangs_defaults() -> None:
    assert serving_of(()) == SGLANG_DEFAULTS
    assert served_llm(LLM, ()) == LLM


def test_flags_are_read_as_argparse_reads_them() -> None:
    usual = "--chunked-prefill-size 4096 --mem-fraction-static 0.8 --kv-cache-dtype fp8_e4m3"
    short = (
        "--chunked-prefill-size=1 --chunked-prefill-size=4096 --mem-frac 0.8 --kv-cache fp8_e4m3"
    )
    assert serving_of(usual.split()) == serving_of(short.split())


def test_kv_in_fp8_holds_twice_the_tokens() -> None:
    twice = engine("--kv-cache-dtype fp8_e4m3").kv_capacity_tokens
    assert twice == pytest.approx(2 * engine("").kv_capacity_tokens, rel=1e-3)


def test_a_smaller_memory_share_holds_fewer_tokens() -> None:
    less, more = (engine(f"--mem-fraction-static {x}").kv_capacity_tokens for x in (0.7, 0.8))
    assert less < more < engine("").kv_capacity_tokens


def test_weights_cast_to_fp8_leave_room_and_decode_faster() -> None:
    cast, usual = engine("--quantization fp8"), engine("")
    assert cast.kv_capacity_tokens > usual.kv_capacity_tokens
    assert cast.times.decode_base_s < usual.times.decode_base_s


def test_chunks_context_and_running_requests_are_the_ones_given() -> None:
    found = engine("--chunked-prefill-size 2048 --context-length 9000 --max-running-requests 7")
    assert found.chunked_prefill_size == 2048
    assert found.max_context == 9000
    assert found.max_running_requests == 7


def test_an_engine_that_does_not_cut_prompts_computes_one_in_a_step() -> None:
    found = engine("--chunked-prefill-size -1")
    assert found.chunked_prefill_size == LLM.max_context
    # such a step may hold --max-prefill-tokens 16384, for which SGLang leaves memory
    assert found.kv_capacity_tokens < engine("").kv_capacity_tokens


def test_states_of_a_hybrid_follow_the_mamba_flags() -> None:
    hybrid = read_llm("qwen3-next-80b-a3b")

    def most_running(args: str) -> int:
        serving = replace(serving_of(args.split()), max_running=100_000)
        found = engine_model(hybrid, CLUSTER, Parallelism(tp=4), "colocated", serving=serving)
        assert found is not None
        return found.max_running_requests

    assert most_running("--mamba-full-memory-ratio 0.3") < most_running("")
    fewer_slots = most_running("--mamba-radix-cache-strategy no_buffer")
    assert fewer_slots > most_running("--mamba-radix-cache-strategy extra_buffer")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--chunked-prefill-size abc", "'abc'"),
        ("--chunked-prefill-size 4100 --page-size 64", "--page-size 64"),
        ("--mem-fraction-static 1.2", "1.2"),
        ("--mem-fraction-static nan", "'nan'"),
        ("--page-size 0", "'0'"),
        ("--max-running-requests -3", "'-3'"),
        ("--mamba-full-memory-ratio -1", "'-1'"),
        ("--enable-mixed-chunk --speculative-algorithm EAGLE", "--enable-mixed-chunk"),
    ],
)
def test_what_sglang_asserts_is_refused_in_a_deployment(args: str, said: str) -> None:
    with pytest.raises(InvalidInput, match="--") as refused:
        deployment_of(model="m", total=1, prefill=0, args=args.split())
    assert said in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(
    ("model", "name", "said"),
    [
        ("qwen3-32b", "awq", "16 bits"),
        ("qwen3-32b", "bitsandbytes", "does not know"),
        ("qwen3-32b-fp8", "awq", "does not match"),
        ("deepseek-v3", "mxfp4", "does not match"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_so_is_refused(model: str, name: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        served_llm(read_llm(model), ["--quantization", name])


@pytest.mark.parametrize("name", ["fp8", "modelopt_fp8", "compressed-tensors", "unquant"])
def test_a_checkpoint_in_the_format_named_stays_as_it_is(name: str) -> None:
    llm = read_llm("qwen3-32b-fp8")
    assert served_llm(llm, ["--quantization", name]) == llm


def test_no_reserved_decode_tokens_are_none_and_not_the_default() -> None:
    assert serving_of(("--num-reserved-decode-tokens", "0")).reserved_decode_tokens == 0


def test_simulated_engines_speculate_as_planned_and_only_then() -> None:
    drafts = ("--speculative-num-draft-tokens", "4")
    assert simulated_serving(drafts).verify_tokens == 1
    planned = PlannedFor(gpus="8xH200", spec_draft_tokens=3, spec_accept_length=2.4)
    serving = simulated_serving(simulated_speculation(planned))
    assert (serving.verify_tokens, serving.accept_length) == (4, 2.4)
    assert simulated_speculation(None) == ()


def launched(
    role: Role, parallelism: Parallelism, args: str, version: tuple[int, ...]
) -> list[str]:
    """The command of an engine that `up` starts, with SGLang or simulated (version 0)."""
    words = args.split()
    prefill = 0 if role == "colocated" else 1
    deployment = deployment_of(
        model="deepseek-v3", parallelism=parallelism, args=words, total=prefill + 1, prefill=prefill
    )
    ports = Ports(http=20000, bootstrap=21000, nccl=25000, dist_init=24000)
    if not version:
        return list(simulated_argv(deployment, role, ports, address=LOOPBACK, pdctl_python="py"))
    where = {"address": LOOPBACK, "python": "py"}
    return list(engine_argv(deployment, role, ports, version=version, backend="mooncake", **where))


@cache
def deepseek_v3() -> Llm:
    return read_llm("deepseek-v3")


def per_rank(serving: Serving, parallelism: Parallelism, role: Role) -> tuple[int, int, float]:
    """Chunk, KV tokens and memory share of a rank, as SGLang makes them of its own settings."""
    llm, gpu = deepseek_v3(), parse_gpus("9x8xH200").gpu
    chunk = serving.chunk or chunked_prefill_size(gpu)
    fraction = mem_fraction_static(llm, gpu, parallelism, role, serving)
    capacity = kv_capacity_tokens(llm, gpu, parallelism, role, serving)
    return chunk // parallelism.dp, capacity // parallelism.dp, fraction


@pytest.mark.parametrize("role", ["colocated", "prefill", "decode"])
@pytest.mark.parametrize("ranks", [1, 8, 16, 72])
@pytest.mark.parametrize(
    "args",
    [
        "",
        "--chunked-prefill-size 16384",
        "--mem-fraction-static 0.8",
        "--moe-a2a-backend deepep",
        "--moe-a2a-backend deepep --max-running-requests 720",
    ],
)
@pytest.mark.parametrize("version", [(0, 5, 15), (0, 5, 23), ()])
def test_a_rank_that_is_started_has_the_limits_that_plan_assumes(
    role: Role, ranks: int, args: str, version: tuple[int, ...]
) -> None:
    parallelism = Parallelism(tp=max(8, ranks), dp=ranks, ep=max(8, ranks))
    argv = launched(role, parallelism, args, version)[3:]
    given = options(argv)
    assert int(given.get("--dp-size", given.get("--attn-dp-size", "1"))) == ranks
    read = serving_of(argv)
    planned = engine_model(
        deepseek_v3(),
        parse_gpus("9x8xH200"),
        parallelism,
        role,
        serving=serving_of(args.split()),
    )
    assert planned is not None
    chunk, tokens, fraction = per_rank(read, parallelism, role)
    assert 0 < fraction < 1
    assert planned.chunked_prefill_size // ranks == chunk
    assert planned.kv_capacity_tokens // ranks == tokens
    most = read.max_running or max_running_requests(tokens * ranks, planned.max_context, dp=ranks)
    assert planned.max_running_requests == most


def test_ranks_of_a_wide_engine_compute_2k_tokens_in_a_step_unless_told_otherwise() -> None:
    wide = Parallelism(tp=16, dp=16, ep=16)
    usual = options(launched("prefill", wide, "", (0, 5, 23))[3:])
    assert usual["--chunked-prefill-size"] == str(16 * 2048)
    assert usual["--mem-fraction-static"] == "0.835"
    own = launched("prefill", wide, "--chunked-prefill-size 65536", (0, 5, 23))
    assert own.count("--chunked-prefill-size") == 1
    narrow = options(launched("prefill", Parallelism(tp=8, dp=8), "", (0, 5, 23))[3:])
    assert not {"--chunked-prefill-size", "--mem-fraction-static"} & set(narrow)


@pytest.mark.parametrize(("args", "rows"), [("", 256), ("--max-running-requests 720", 90)])
def test_buffers_of_deepep_hold_what_a_rank_of_a_decode_engine_may_run(
    args: str, rows: int
) -> None:
    words = ("--moe-a2a-backend", "deepep", *args.split())
    plan = RolePlan(1, Parallelism(tp=8, dp=8, ep=8), words)

    def env(role: Role, plan: RolePlan = plan) -> dict[str, str]:
        return engine_env(role, (), plan=plan, address=LOOPBACK, version=None, backend="mooncake")

    name = "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"
    assert env("decode")[name] == str(rows)
    assert name not in env("prefill")
    assert name not in env("decode", RolePlan(1, Parallelism(tp=8, dp=8, ep=8)))
