"""Intervals of predicted times, from what predictions of measured runs were off by."""

import math
from collections.abc import Callable
from itertools import combinations
from statistics import median

import pytest

from pdctl.perf_model.hardware import generation
from pdctl.perf_model.intervals import (
    SLOW_MINUTE,
    Case,
    errors_of,
    interval,
    model_kind,
    ratio_interval,
    slow_host,
)
from pdctl.perf_model.residuals import (
    FIGURES,
    Figure,
    Kind,
    Region,
    Residual,
    known_residuals,
    region_of,
)
from pdctl.perf_model.roofline import step_times
from pdctl.perf_model.simulator.steps import pairs, prefill_s
from tests.perf_model.shapes import ONE, cluster, llm


def made(num: int, size: float, name: str, **changes: object) -> list[Residual]:
    """Runs of one configuration, whose residuals grow evenly to a size."""
    sizes = [size * i / num for i in range(num)]
    fields = {"kind": "dense", "gpu": "H200", "fitted": False, "region": "many", **changes}
    return [
        Residual(f"{name} {fields['gpu']} 1C", ttft=s, tpot=s, e2e=s, **fields)  # type: ignore[arg-type]
        for s in sizes
    ]


def case(kind: Kind = "dense", gpu: str = "H200", **changes: object) -> Case:
    fields = {"fitted": False, "region": "many", **changes}
    return Case(kind, gpu, **fields)  # type: ignore[arg-type]


def test_two_machines_say_too_little_and_the_interval_is_assumed() -> None:
    two = made(20, 0.2, "a") + made(20, 0.3, "b")
    assert interval("tpot", case(), two).basis == "assumed"
    found = interval("tpot", case(), two + made(20, 0.1, "c"))
    assert found.num_configurations == 3
    assert found.low < 1 < found.high
    assert found.basis == "runs without a profile of their model, more than 8 running"


def test_without_any_run_every_interval_is_assumed() -> None:
    for figure in FIGURES:
        assert interval(figure, case(), []).num_residuals == 0
        assert ratio_interval(figure, case(), []).half_width > 0.5


def test_too_few_runs_in_a_load_region_are_joined_by_those_of_the_other() -> None:
    runs = [r for name in "abc" for r in made(20, 0.2, name)]
    found = interval("tpot", case(region="few"), runs)
    assert found.basis == "runs without a profile of their model"


@pytest.mark.parametrize("unseen", [case(gpu="MI300X"), case("hybrid"), case(spans_hosts=True)])
def test_what_no_run_was_like_has_a_wider_interval(unseen: Case) -> None:
    runs = made(40, 0.2, "a") + made(40, 0.3, "b") + made(40, 0.5, "c")
    assert interval("tpot", case(), runs).high < interval("tpot", unseen, runs).high
    assert "none is alike" in interval("tpot", unseen, runs).basis


def test_the_public_run_of_an_engine_across_two_hosts_is_within_its_interval() -> None:
    across = Case("mla", "H100", fitted=False, region="few", spans_hosts=True)
    assert errors_of(across).tpot.high > 23.0 / 12.53


def test_a_profile_that_fits_badly_has_an_interval_of_its_own_error() -> None:
    runs = [r for name in "abc" for r in made(20, 0.02, name, fitted=True)]
    bad = interval("tpot", case(fitted=True, fit_error=0.2), runs)
    assert bad.high == pytest.approx(math.exp(0.4))


def test_what_two_layouts_of_one_machine_share_cancels_in_their_ratio() -> None:
    runs = [
        Residual(f"{name} H200 1C", "dense", "H200", False, "many", 0.4, 0.4 + 0.01 * i, 0.4)
        for name in "abc"
        for i in range(10)
    ]
    alone, ratio = interval("tpot", case(), runs), ratio_interval("tpot", case(), runs)
    assert alone.high > math.exp(0.4)
    assert ratio.high < math.exp(0.1)


def test_each_machine_counts_alike_in_a_ratio_however_many_runs_it_has() -> None:
    quiet = [r for name in "abcdefghi" for r in made(4, 0.01, name)]
    assert ratio_interval("tpot", case(), quiet + made(60, 1.0, "loud")).high < math.exp(0.7)


TUNED_KINDS: tuple[Kind, ...] = ("dense", "mla", "sparse")

Covered = tuple[bool, float]


def left_out(figure: Figure, *, tuned: bool, relative: bool = False) -> list[Covered]:
    """For each run: is it within the interval of the other configurations; the half-width.

    relative: of runs with another model's profile alone.
    """
    found = []
    for one in known_residuals():
        score = one.of(figure)
        if one.tuned != tuned or one.relative < relative or score is None:
            continue
        others = [r for r in known_residuals() if r.configuration != one.configuration]
        near = interval(figure, _case_of(one, one.region), others)
        found.append((near.low <= math.exp(score) <= near.high, near.half_width))
    return found


def _case_of(one: Residual, region: Region) -> Case:
    slow = SLOW_MINUTE if one.launched else 1.0
    return Case(
        one.kind,
        one.gpu,
        one.fitted,
        region,
        slow_host=slow,
        relative=one.relative,
        closed=one.closed,
    )


@pytest.mark.parametrize("figure", FIGURES)
def test_intervals_cover_nine_in_ten_runs_of_a_configuration_that_was_left_out(
    figure: Figure,
) -> None:
    covered = [is_within for is_within, _ in left_out(figure, tuned=False)]
    assert 0.85 <= sum(covered) / len(covered) <= 0.95


def test_first_tokens_with_a_profile_of_the_model_are_covered_as_often() -> None:
    covered = [is_within for is_within, _ in left_out("ttft", tuned=True)]
    assert 0.85 <= sum(covered) / len(covered) <= 0.95


@pytest.mark.parametrize("figure", ["tpot", "rate"])
def test_the_least_interval_covers_every_run_with_a_profile_of_the_model(figure: Figure) -> None:
    assert all(is_within for is_within, _ in left_out(figure, tuned=True))


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize(("tuned", "widest"), [(True, 0.15), (False, 0.35)])
def test_half_widths_stay_within_what_the_page_says(
    figure: Figure, tuned: bool, widest: float
) -> None:
    assert median(width for _, width in left_out(figure, tuned=tuned)) <= widest


Trait = Callable[[Residual], str]
TRAITS: list[Trait] = [lambda r: r.kind, lambda r: generation(r.gpu)]


@pytest.mark.parametrize("trait", TRAITS, ids=["kind", "generation"])
@pytest.mark.parametrize("figure", FIGURES)
def test_intervals_cover_runs_of_which_no_other_was_alike(figure: Figure, trait: Trait) -> None:
    within = []
    for one in known_residuals():
        score = one.of(figure)
        if not one.tuned and score is not None:
            others = [r for r in known_residuals() if trait(r) != trait(one)]
            found = interval(figure, _case_of(one, one.region), others)
            assert "widened" in found.basis
            within.append(found.low <= math.exp(score) <= found.high)
    assert 0.9 <= sum(within) / len(within) <= 0.98


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize("figure", FIGURES)
def test_ratios_cover_nine_in_ten_pairs_of_a_machine_that_was_left_out(
    figure: Figure, tuned: bool
) -> None:
    shares = []
    machines = {r.machine for r in known_residuals() if r.tuned == tuned}
    for machine in machines:
        own = [r for r in known_residuals() if r.machine == machine and r.of(figure) is not None]
        others = [r for r in known_residuals() if r.machine != machine]
        pairs = [(a, b) for a, b in combinations(own, 2) if a.region == b.region]
        widths = {
            region: ratio_interval(figure, _case_of(own[0], region), others)
            for region in {a.region for a, _ in pairs}
        }
        within = [
            abs((a.of(figure) or 0.0) - (b.of(figure) or 0.0)) <= math.log(widths[a.region].high)
            for a, b in pairs
        ]
        shares += [sum(within) / len(within)] if within else []
    # without one of the three machines with profiles, runs with a relative's profile join in
    assert 0.84 <= sum(shares) / len(shares) <= (1.0 if tuned else 0.97)


@pytest.mark.parametrize("tuned", [True, False])
def test_a_ratio_of_rates_is_surer_than_if_its_errors_were_independent(tuned: bool) -> None:
    errors = errors_of(Case("dense", "H200", tuned, "many"))
    assert math.log(errors.rate_ratio.high) < math.sqrt(2) * math.log(errors.rate.high)


def test_kinds_follow_what_mixes_tokens_first() -> None:
    names = ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "glm-5", "qwen3.5-397b-a17b")
    kinds = [model_kind(llm(name)) for name in names]
    assert kinds == ["dense", "moe", "mla", "sparse", "hybrid"]
    assert (region_of(8), region_of(9)) == ("few", "many")


def test_first_tokens_of_tuned_kernels_are_known_better_than_those_of_other_models() -> None:
    tuned = [errors_of(case(kind, closed=True)).ttft for kind in TUNED_KINDS]
    others = [errors_of(case(kind, closed=True)).ttft for kind in ("moe", "hybrid")]
    assert all("dense or latent models" in found.basis for found in tuned)
    assert max(t.half_width for t in tuned) < min(o.half_width for o in others)


def test_first_tokens_on_the_profile_of_another_model_are_covered_too() -> None:
    found = left_out("ttft", tuned=False, relative=True)
    assert sum(is_within for is_within, _ in found) / len(found) >= 0.85
    assert median(width for _, width in found) <= 0.35


def test_first_tokens_under_arrivals_are_known_better_than_those_of_a_closed_loop() -> None:
    arriving, closed = (errors_of(case("moe", closed=flag)).ttft for flag in (False, True))
    assert arriving.basis == "arrivals without a profile of their model"
    assert arriving.half_width < closed.half_width


def test_arrivals_say_nothing_of_a_generation_that_none_was_measured_on() -> None:
    assert "arrivals" not in errors_of(case("moe", "B200")).ttft.basis


def test_the_profile_of_another_model_says_no_more_than_none() -> None:
    own, relative, none = (
        errors_of(case(fitted=fitted, relative=flag))
        for fitted, flag in ((True, False), (True, True), (False, False))
    )
    assert "with a profile of their model" in own.tpot.basis
    assert own.tpot.half_width < relative.tpot.half_width == none.tpot.half_width
    assert own.ttft.half_width < relative.ttft.half_width == none.ttft.half_width


def test_prompts_that_wait_for_launches_are_known_less_well_than_others() -> None:
    long, short = (errors_of(case(fitted=True, slow_host=f)).ttft for f in (1.0, SLOW_MINUTE))
    assert "no prefill waiting for launches" in long.basis
    assert short.high >= SLOW_MINUTE > long.high


def test_a_slow_host_makes_prompts_late_that_take_the_gpu_less_than_their_launches() -> None:
    times = step_times(llm("llama-3.1-8b"), cluster(), ONE, "prefill", release="0.5.15")
    launches_s = times.eager_s
    measured, unknown = (slow_host(times, 64, is_known=known) for known in (True, False))
    assert measured == pytest.approx(1.6)
    assert unknown == pytest.approx(2.0)
    assert prefill_s(times, 64, pairs(64)) == launches_s
    assert slow_host(times, 8192, is_known=False) == 1.0
