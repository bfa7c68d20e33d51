from dataclasses import replace

import pytest

from pdctl.deployment.cautions import cautions
from pdctl.deployment.records import Deployment, RolePlan, RouterPlan
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
        (split(router=RouterPlan(host="0.0.0.0")), "whoever reaches port 30000"),
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
    assert said[1] == "SGLang 0.6.0 is outside 0.5.10 to 0.5.23, whose flags pdctl knows."


def test_an_open_router_with_a_key_says_what_the_key_does_not_cover() -> None:
    wide = split(router=RouterPlan(host="0.0.0.0"))
    (said,) = cautions(wide, llm=GQA, has_key=True)
    assert "unencrypted" in said
    assert "/engine_metrics" in said
    (open_,) = cautions(wide, llm=GQA)
    assert "--api-key-file" in open_
