import pytest

from pdctl.deployment.build import (
    Counts,
    check_counts,
    deployment_of,
    name_of,
    role_changes,
    scaled,
    validated,
)
from pdctl.deployment.records import RouterPlan
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import colocated, split


@pytest.mark.parametrize(
    ("counts", "layout"),
    [
        (Counts(prefill=3), "3P5D"),
        (Counts(decode=7), "1P7D"),
        (Counts(total=12), "3P9D"),
        (Counts(total=2), "1P1D"),
        (Counts(prefill=2, total=10), "2P8D"),
        (Counts(decode=4, total=10), "6P4D"),
        (Counts(prefill=1, decode=1), "1P1D"),
        (Counts(prefill=1, decode=3, total=4), "1P3D"),
        (Counts(prefill=2), "2P6D"),
    ],
)
def test_one_role_alone_keeps_the_total_and_the_total_alone_the_ratio(
    counts: Counts, layout: str
) -> None:
    assert scaled(split(2, 6), counts).layout == layout


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (Counts(prefill=8), "--prefill 8 of 8 engines leaves no decode engine"),
        (Counts(prefill=0), "leaves no prefill engine"),
        (Counts(decode=0, total=3), "leaves no decode engine"),
        (Counts(total=1), "leaves no"),
        (Counts(total=0), "leaves no"),
        (Counts(prefill=-1), "leaves no prefill engine"),
        (
            Counts(prefill=2, decode=2, total=5),
            "plus --decode 2 is 4, but --total is 5",
        ),
        (Counts(), "No engine count given"),
        (Counts(total=401), "401 engines exceed the limit of 400"),
    ],
)
def test_what_could_not_serve_is_refused_with_the_reason(counts: Counts, words: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        scaled(split(2, 6), counts)
    assert words in refusal.value.message


def test_colocated_engines_only_change_in_number() -> None:
    assert scaled(colocated(8), Counts(total=3)).layout == "3C"
    for counts in (Counts(prefill=1), Counts(total=0)):
        with pytest.raises(InvalidInput):
            scaled(colocated(8), counts)


def test_a_prediction_belongs_to_its_layout() -> None:
    predicted = split(2, 6, predicted={"ttft_p50_s": 0.3})
    assert scaled(predicted, Counts(prefill=3)).predicted == {}
    assert scaled(predicted, Counts(prefill=2)).predicted == {"ttft_p50_s": 0.3}


@pytest.mark.parametrize(
    ("to", "changes"),
    [
        ((3, 5), {"prefill-2": "decode-5"}),
        ((4, 4), {"prefill-2": "decode-5", "prefill-3": "decode-4"}),
        ((1, 7), {"decode-6": "prefill-1"}),
        ((3, 6), {}),
        ((2, 5), {}),
        ((1, 6), {}),
        ((4, 5), {"prefill-2": "decode-5"}),
        ((3, 4), {"prefill-2": "decode-5"}),
    ],
)
def test_engines_beyond_a_role_take_the_places_beyond_the_other(
    to: tuple[int, int], changes: dict[str, str]
) -> None:
    assert role_changes(split(2, 6), split(*to)) == changes


def test_engines_of_different_size_do_not_take_each_others_place() -> None:
    small = split(2, 6).roles["decode"]
    large = split(2, 6, parallelism=Parallelism(tp=2)).roles["prefill"]
    before = split(roles={"prefill": large, "decode": small})
    assert role_changes(before, scaled(before, Counts(prefill=3))) == {}


def test_two_of_eight_engines_prefill() -> None:
    deployment = deployment_of(model="Qwen/Qwen3-8B", total=8, prefill=2)
    assert (deployment.layout, deployment.name, deployment.num_gpus) == ("2P6D", "qwen3-8b", 8)


@pytest.mark.parametrize(
    ("total", "layout"), [(2, "1P1D"), (3, "1P2D"), (4, "1P3D"), (8, "2P6D"), (12, "3P9D")]
)
def test_without_a_number_a_quarter_prefills(total: int, layout: str) -> None:
    assert deployment_of(model="m", total=total).layout == layout


def test_no_prefill_engines_means_colocated() -> None:
    assert deployment_of(model="m", total=3, prefill=0).layout == "3C"
    assert deployment_of(model="m", total=1, prefill=0).layout == "1C"


@pytest.mark.parametrize(
    ("prefill", "total", "words", "hint"),
    [
        (8, 8, "--prefill 8 of --total 8 leaves no engine for decode.", "--prefill 2 --total 8"),
        (9, 8, "leaves no engine for decode", "--prefill 0"),
        (1, 1, "--total 1 is too few for a split", "--prefill 1 --total 2"),
        (None, 1, "--total 1 is too few for a split", "--prefill 0 --total 1"),
        (-1, 8, "must be at least 0, not -1", "--prefill 0 for colocated"),
        (0, 0, "--total must be at least 1, not 0", "--total 8"),
        (None, -4, "--total must be at least 1, not -4", "--total 8"),
    ],
)
def test_counts_that_cannot_serve_are_refused(
    prefill: int | None, total: int, words: str, hint: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        check_counts(prefill, total)
    assert words in error.value.message
    assert hint in error.value.hint


def test_each_role_has_its_own_size_and_flags_after_the_shared_ones() -> None:
    deployment = deployment_of(
        model="m",
        total=4,
        parallelism=Parallelism(tp=2),
        decode_parallelism=Parallelism(tp=4, dp=4),
        args=("--page-size", "1"),
        prefill_args=("--chunked-prefill-size", "8192"),
    )
    prefill, decode = deployment.roles["prefill"], deployment.roles["decode"]
    assert (prefill.parallelism.tp, decode.parallelism.tp) == (2, 4)
    assert prefill.args == ("--page-size", "1", "--chunked-prefill-size", "8192")
    assert decode.args == ("--page-size", "1")
    assert deployment.num_gpus == 1 * 2 + 3 * 4


@pytest.mark.parametrize(
    ("parallelism", "words"),
    [
        (Parallelism(tp=0), "tp of prefill engines must be at least 1, not 0"),
        (Parallelism(tp=4, dp=3), "dp 3 of prefill engines does not divide tp 4"),
        (Parallelism(tp=4, ep=8), "ep 8 of prefill engines does not divide tp 4"),
    ],
)
def test_sizes_that_cannot_be_are_refused(parallelism: Parallelism, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        validated(split(parallelism=parallelism))


@pytest.mark.parametrize("name", ["../x", "", ".x", "a/b", "a" * 65, "a..b", "-x", "a\n", "ä"])
def test_a_name_that_could_leave_its_directory_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="is not a valid deployment name"):
        deployment_of(model="m", total=2, name=name)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen3-32B", "qwen3-32b"),
        ("/models/My Model/", "my-model"),
        ("..", "default"),
        ("x" * 99, "x" * 64),
        ("a..b", "a-b"),
    ],
)
def test_a_deployment_is_named_for_its_model(model: str, name: str) -> None:
    assert name_of(model) == name
    assert deployment_of(model=model, total=2).name == name


def test_what_else_cannot_run_is_refused() -> None:
    with pytest.raises(InvalidInput, match="401 engines exceed the limit of 400"):
        deployment_of(model="m", total=401)
    with pytest.raises(InvalidInput, match="has no model"):
        deployment_of(model=" ", total=2)
    with pytest.raises(InvalidInput, match="0 is not a valid port"):
        deployment_of(model="m", total=2, router=RouterPlan(port=0))
    with pytest.raises(InvalidInput, match="no policy 'fair'"):
        deployment_of(model="m", total=2, router=RouterPlan(policy="fair"))
