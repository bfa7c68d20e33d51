"""Caveats about the release and the settings of a plan, and what they do to its intervals."""

from dataclasses import replace

import pytest

from pdctl.commands.plan_run import of_release
from pdctl.errors import InvalidInput
from pdctl.perf_model.engine_model import engine_model
from pdctl.perf_model.fitting.profiles import named_profile
from pdctl.perf_model.records import Fleet, Parallelism, Profile, Role, Serving
from pdctl.verdict.caveats import caveats, drawn_ranks
from pdctl.verdict.judge import provenance_of
from pdctl.verdict.sentences import write
from pdctl.verdict.verdict import decide
from tests.verdict.examples import question


def said(**serving: object) -> str:
    settings = {"colocated": Serving(**serving)}  # type: ignore[arg-type]
    return " ".join(caveats(question(serving=settings)))


def test_a_release_newer_than_the_constants_is_said_with_the_newest_known() -> None:
    assert "SGLang 0.9.1 is newer than 0.5.23" in said(release="0.9.1")
    assert "newer" not in said(release="0.5.23")
    assert "newer" not in said()


@pytest.mark.parametrize("release", ["0.9.1", "0.4.9"])
def test_nothing_is_sure_about_a_release_without_constants(release: str) -> None:
    known: dict[Role, Serving] = dict.fromkeys(("colocated", "prefill", "decode"), Serving())
    for asked in (
        question(gpus="1xH200", isl=1000, rate=1.0),  # there is only one layout
        question(gpus="1xH200", model="deepseek-r1"),  # does not fit
    ):
        assert decide(replace(asked, serving=known)).confidence == "high"
        unknown = of_release(replace(asked, serving=known), release)
        told = write(unknown, decide(unknown))
        assert told.confidence == "medium"
        assert any(f"SGLang {release} is" in line for line in told.warnings)


def test_ranks_that_are_drawn_are_told_with_the_flag_that_balances_them() -> None:
    (told,) = drawn_ranks(question(), 8)
    assert "--load-balance-method total_tokens" in told
    balanced = question(serving={"prefill": Serving(balance="total_tokens")})
    assert not [*drawn_ranks(balanced, 8), *drawn_ranks(question(), 1)]


def test_experts_that_could_be_spread_over_hosts_come_with_the_flag_that_needs() -> None:
    flag = "--moe-a2a-backend deepep"
    hosts = question("deepseek-r1", "4x8xH200")
    assert flag in " ".join(caveats(hosts))
    given = replace(hosts, serving={"colocated": Serving(all_to_all=True)})
    for other in (given, question("deepseek-r1"), question("qwen3-32b", "4x8xH200")):
        assert flag not in " ".join(caveats(other))


def test_a_receive_interval_comes_with_its_cost_and_the_mend() -> None:
    told = said(receive_interval=30)
    assert "30 decode steps (15 x TPOT on average)" in told
    assert "1 removes that wait from TTFT" in told
    assert "recv-interval" not in said(receive_interval=1)


def test_a_release_is_that_of_every_engine_and_must_begin_with_a_number() -> None:
    roles = {"colocated": Serving(), "prefill": Serving(chunk=2048), "decode": Serving()}
    asked = of_release(question(serving=roles), "0.5.9")
    assert {own.release for own in asked.serving.values()} == {"0.5.9"}
    assert asked.serving["prefill"].chunk == 2048
    assert of_release(asked, "") is asked
    with pytest.raises(InvalidInput, match="is not a release of SGLang"):
        of_release(asked, "main")


def ttft_width(release: str, profile: Profile, prompt_tokens: int) -> float:
    """The half-width of TTFT's interval for a prefill engine of this release."""
    asked = question(gpus=f"8x{profile.gpu}", isl=prompt_tokens, profile=profile)
    settings = Serving(release=release)
    prefill = engine_model(
        asked.llm, asked.cluster, Parallelism(), "prefill", profile=profile, serving=settings
    )
    fleet = Fleet(prefill=prefill, num_prefill=1)
    return provenance_of(asked, [fleet], running=1).errors.ttft.half_width


UNKNOWN_SPEED = "h200--dense-gqa--sglang-0.5.15--fa3"
KNOWN_SPEED = "h100--dense-gqa--sglang-0.5.15--fa3"


@pytest.mark.parametrize("name", [UNKNOWN_SPEED, KNOWN_SPEED])
def test_launches_widen_first_tokens_of_short_prompts_without_graphs(name: str) -> None:
    profile = named_profile(name)
    assert ("eager_s" in profile.factors) == (name == KNOWN_SPEED)
    assert ttft_width("0.5.15", profile, 256) > 2 * ttft_width("0.5.23", profile, 256)
    assert ttft_width("0.5.15", profile, 8192) == ttft_width("0.5.23", profile, 8192)


def test_launches_at_a_speed_that_nobody_measured_widen_first_tokens_more() -> None:
    known, unknown = (
        ttft_width("0.5.15", named_profile(name), 64) for name in (KNOWN_SPEED, UNKNOWN_SPEED)
    )
    assert known < unknown
