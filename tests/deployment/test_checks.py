from dataclasses import replace

import pytest

from pdctl.deployment.checks import ENGINE_FLAGS, ROUTER_FLAGS, cautions, check_args
from pdctl.deployment.records import Deployment, RolePlan, RouterPlan
from pdctl.deployment.sglang_flags import options
from pdctl.errors import InvalidInput
from pdctl.inspection.records import Llm
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import colocated, split, with_args

GQA = Llm("m", "M", 2, 64, 128, 512, 8, 8, 8, 8)
MLA = replace(GQA, attention="mla")


def asymmetric(prefill: Parallelism, decode: Parallelism, **env: str) -> Deployment:
    return split(roles={"prefill": RolePlan(1, prefill, env=env), "decode": RolePlan(1, decode)})


def test_an_ordinary_deployment_has_nothing_to_say() -> None:
    assert cautions(split(), llm=GQA, version=(0, 5, 23), backend="nixl") == ()
    assert cautions(colocated()) == ()


def test_different_attention_tp_is_slow_unless_mla() -> None:
    wanted = asymmetric(Parallelism(tp=2), Parallelism(tp=4))
    (said,) = cautions(wanted, llm=GQA, backend="nixl")
    assert "over 2 GPUs and decode over 4" in said
    assert "SGLANG_DISAGG_STAGING_BUFFER=1" in said
    assert cautions(wanted, llm=MLA) == ()
    (unsure,) = cautions(wanted, llm=None)
    assert "unless the model has MLA" in unsure
    assert "STAGING" not in unsure


def test_equal_attention_tp_inside_different_tp_is_fine() -> None:
    assert cautions(asymmetric(Parallelism(tp=2), Parallelism(tp=8, dp=4)), llm=GQA) == ()
    staged = asymmetric(Parallelism(tp=2), Parallelism(tp=4), SGLANG_DISAGG_STAGING_BUFFER="1")
    assert cautions(staged, llm=GQA) == ()


@pytest.mark.parametrize(
    ("deployment", "words"),
    [
        (split(parallelism=Parallelism(pp=8)), "pp 8"),
        (split(router=RouterPlan(policy="power_of_two")), "power_of_two"),
        (split(router=RouterPlan(policy="cache_aware")), "at random"),
        (split(router=RouterPlan(host="0.0.0.0")), "anyone who reaches port 30000"),
        (with_args("--attention-backend fa3", "--attention-backend flashinfer"), "--page-size"),
    ],
)
def test_each_known_trouble_is_one_sentence(deployment: Deployment, words: str) -> None:
    (said,) = cautions(deployment, llm=GQA)
    assert words in said


def test_an_equal_page_size_settles_different_attention_backends() -> None:
    both = "--page-size 64 --attention-backend"
    assert cautions(with_args(f"{both} fa3", f"{both} flashinfer"), llm=GQA) == ()


def test_tcp_transfer_and_unknown_versions_are_said() -> None:
    said = cautions(split(), llm=GQA, version=(0, 6, 0), backend="mooncake_tcp")
    assert "TCP" in said[0]
    assert said[1] == ("SGLang 0.6.0 is outside the range 0.5.10 to 0.5.23 that pdctl supports.")


def test_an_open_router_with_a_key_says_what_the_key_does_not_cover() -> None:
    wide = split(router=RouterPlan(host="0.0.0.0"))
    (said,) = cautions(wide, llm=GQA, has_key=True)
    assert "without encryption" in said
    assert "/engine_metrics" in said
    (open_,) = cautions(wide, llm=GQA)
    assert "--api-key-file" in open_


def test_policies_among_the_routers_own_flags_are_cautioned_too() -> None:
    router = RouterPlan(args=("--prefill-pol", "power_of_two", "--decode-policy=cache_aware"))
    told = " ".join(cautions(split(router=router)))
    assert "/get_load" in told
    assert "ignores prefixes" in told


def test_a_value_that_the_newest_release_lacks_is_cautioned_for_others() -> None:
    args = "--attention-backend foo"
    told = " ".join(cautions(with_args(prefill=args, decode=args), version=(0, 5, 15)))
    assert "does not take 'foo'" in told


def test_a_flag_that_the_newest_release_lacks_is_cautioned() -> None:
    told = " ".join(cautions(with_args(prefill="--no-such-flag 3", decode="--page-size 64")))
    assert "has no --no-such-flag; other releases may" in told
    assert "--page-size" not in told


def test_flags_are_read_under_one_name_however_they_are_spelled() -> None:
    assert options(
        ("--page-size=64", "--ep", "8", "--x", "1", "2", "--flag", "--page-size", "1")
    ) == {
        "--page-size": "1",
        "--ep-size": "8",
        "--x": "1 2",
        "--flag": "",
    }


@pytest.mark.parametrize("spelled", ["--kv_cache_dtype", "--page_size=64", "--mem_fraction-static"])
def test_a_flag_with_underscores_is_refused_with_its_right_spelling(spelled: str) -> None:
    with pytest.raises(InvalidInput, match="with hyphens alone") as refused:
        options((spelled, "1"))
    assert refused.value.hint == spelled.partition("=")[0].replace("_", "-")


def test_a_value_without_a_flag_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'8192' has no flag before it"):
        options(("8192", "--page-size", "1"))


@pytest.mark.parametrize(
    "args",
    [
        "--port 5",
        "--port=5",
        "--po 5",
        "--host 0.0.0.0",
        "--tp 2",
        "--tensor-parallel-size 2",
        "--disaggregation-mode decode",
        "--disaggregation-boot 9000",
        "--disaggregation-transfer-backend=nixl",
        "--model x",
        "--nccl-init-addr x:1",
        "--trust-remote-code",
        "--api-key secret",
        "--config flags.yaml",
        "--base-gpu-id 1",
        "--enable-dp-attention",
        "--",
    ],
)
def test_a_flag_that_pdctl_sets_is_refused_with_the_reason(args: str) -> None:
    name = args.replace("=", " ").split()[0]
    with pytest.raises(InvalidInput) as error:
        check_args(with_args(decode=args))
    assert error.value.message.startswith(f"{name} cannot be set in decode.args: ")
    assert any(reason in error.value.message for reason in ENGINE_FLAGS.values())
    assert "secret" not in error.value.message
    assert error.value.hint


@pytest.mark.parametrize(
    "args",
    [
        "--disaggregation-ib-device mlx5_0",
        "--disaggregation-decode-polling-interval 4",
        "--device cpu",
        "--dtype bfloat16",
        "--enable-metrics-for-all-schedulers",
        "--a-flag-of-tomorrow 7",
        "--pp-max-micro-batch-size 4",
        "--ep-num-redundant-experts 32",
        "--numa-node 0 1",
    ],
)
def test_flags_pdctl_does_not_set_pass_through(args: str) -> None:
    check_args(with_args(args, args))


@pytest.mark.parametrize("flag", sorted(ROUTER_FLAGS))
def test_the_routers_own_flags_are_refused_in_its_args(flag: str) -> None:
    with pytest.raises(InvalidInput, match=f"{flag} cannot be set in router.args"):
        check_args(split(router=RouterPlan(args=(flag, "1"))))


def test_other_router_flags_pass_through() -> None:
    check_args(split(router=RouterPlan(args=("--prefill-policy", "bucket", "--queue-size=9"))))


@pytest.mark.parametrize(
    ("prefill", "decode"),
    [
        ("--page-size 64", "--page-size 1"),
        ("--kv-cache-dtype fp8_e5m2", ""),
        ("", "--context-length 8192"),
        ("--quantization fp8", "--quantization=awq"),
        ("--served-model-name a", "--served-model-name b"),
        ("--disaggregation-enable-kv-checksum", ""),
    ],
)
def test_flags_that_must_agree_are_refused_when_they_differ(prefill: str, decode: str) -> None:
    name = (prefill or decode).replace("=", " ").split()[0]
    with pytest.raises(InvalidInput, match=f"{name} must be the same on prefill") as error:
        check_args(with_args(prefill, decode))
    assert name in error.value.hint


def test_flags_that_must_agree_may_be_spelled_differently() -> None:
    check_args(with_args("--page-size 64", "--page-size=64"))
    check_args(colocated(roles={"colocated": RolePlan(1, args=("--page-size", "64"))}))


def test_a_removed_flag_is_refused_only_by_versions_that_lack_it() -> None:
    recipe = with_args(decode="--cuda-graph-bs 128")
    with pytest.raises(InvalidInput, match=r"SGLang 0\.5\.23 has no --cuda-graph-bs") as error:
        check_args(recipe, (0, 5, 23))
    assert error.value.hint == "use --cuda-graph-bs-decode"
    check_args(recipe, (0, 5, 15))
    check_args(recipe, None)


def test_a_flag_of_the_other_role_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is a flag for decode engines") as error:
        check_args(with_args("--disaggregation-decode-enable-radix-cache"))
    assert error.value.hint == "move it to decode.args"
    with pytest.raises(InvalidInput, match="is a flag for prefill engines"):
        check_args(with_args(decode="--enable-kv-cache-sharding"))
