import pytest

from pdctl.deployment.choose import check_counts, checked, deployment_of, name_of
from pdctl.deployment.records import RouterPlan
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import split


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
        (1, 1, "--total 1 leaves no engine", "--prefill 1 --total 2"),
        (None, 1, "--total 1 leaves no engine", "--prefill 0 --total 1"),
        (-1, 8, "must not be negative, not -1", "--prefill 0 for colocated"),
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
        checked(split(parallelism=parallelism))


@pytest.mark.parametrize("name", ["../x", "", ".x", "a/b", "a" * 65, "a..b", "-x", "a\n", "ä"])
def test_a_name_that_could_leave_its_directory_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="is not a name for a deployment"):
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
    with pytest.raises(InvalidInput, match="101 engines are more than the 100"):
        deployment_of(model="m", total=101)
    with pytest.raises(InvalidInput, match="has no model"):
        deployment_of(model=" ", total=2)
    with pytest.raises(InvalidInput, match="0 is not a port"):
        deployment_of(model="m", total=2, router=RouterPlan(port=0))
    with pytest.raises(InvalidInput, match="no policy 'fair'"):
        deployment_of(model="m", total=2, router=RouterPlan(policy="fair"))
