"""What numbers of engines a scale comes to, and which engines change their role."""

import pytest

from pdctl.deployment.scale import Counts, role_changes, scaled
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
        (Counts(prefill=2, decode=2, total=5), "2 and 2 are not 5"),
        (Counts(), "No number of engines"),
        (Counts(total=101), "101 engines are more than the 100"),
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
