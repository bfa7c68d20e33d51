import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdctl.errors import InvalidInput
from pdctl.verdict.sizing import quarter, rate_match, verify_batch


@pytest.mark.parametrize(
    ("total", "prefill"), [(2, 1), (3, 1), (4, 1), (5, 1), (6, 2), (8, 2), (10, 3), (12, 3)]
)
def test_a_quarter_of_the_engines_prefill(total: int, prefill: int) -> None:
    sizing = quarter(total)
    assert (sizing.prefill, sizing.decode) == (prefill, total - prefill)


def test_one_engine_cannot_be_split() -> None:
    with pytest.raises(InvalidInput, match="at least 2 engines, not 1"):
        quarter(1)


def test_prefill_engines_follow_the_prompt_tokens_per_second() -> None:
    sizing = rate_match(8, rate_rps=3, uncached_prompt_tokens=8000, prefill_tokens_per_s=10_000)
    assert (sizing.prefill, sizing.decode, sizing.basis) == (3, 5, "rate_match")


def test_an_exact_need_is_not_rounded_up() -> None:
    sizing = rate_match(8, rate_rps=2, uncached_prompt_tokens=8000, prefill_tokens_per_s=8000)
    assert sizing.prefill == 2


def test_when_there_are_too_few_engines_both_roles_give_way_in_proportion() -> None:
    sizing = rate_match(
        4,
        rate_rps=10,
        uncached_prompt_tokens=1000,
        prefill_tokens_per_s=1000,
        output_tokens=1000,
        decode_tokens_per_s=1000,
    )
    assert (sizing.prefill, sizing.decode) == (2, 2)


@given(
    total=st.integers(2, 600),
    rate=st.floats(1e-3, 1e4),
    tokens=st.floats(1, 1e6),
    speed=st.floats(1, 1e6),
)
def test_both_roles_always_have_an_engine(
    total: int, rate: float, tokens: float, speed: float
) -> None:
    sizing = rate_match(
        total, rate_rps=rate, uncached_prompt_tokens=tokens, prefill_tokens_per_s=speed
    )
    assert sizing.prefill is not None
    assert sizing.decode is not None
    assert sizing.prefill >= 1
    assert sizing.decode >= 1
    assert sizing.prefill + sizing.decode == total


def test_a_verify_batch_has_a_row_per_draft_token_and_one_more() -> None:
    assert verify_batch(32, 4) == 128
