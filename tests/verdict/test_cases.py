"""What pdctl says to published outcomes; docs/cases.md is the table of them."""

import pytest

from tests.verdict.cases import NOT_EXPRESSED, PUBLISHED, QUESTIONS, ROOT, answer


@pytest.mark.e2e  # 40 s for all
@pytest.mark.parametrize("case", QUESTIONS)
def test_no_published_case_gets_a_confident_wrong_verdict(case: str) -> None:
    told = answer(case)
    assert not told.is_confidently_wrong, (told.expected, told.verdict.headline)


@pytest.mark.e2e
def test_published_cases_that_get_a_verdict_mostly_get_the_right_one() -> None:
    answers = [answer(case) for case in QUESTIONS]
    right = sum(told.agrees is True for told in answers)
    wrong = sum(told.agrees is False for told in answers)
    assert right > 3 * wrong
    assert right > len(answers) / 3  # the others are within the error band: too close


def test_every_published_case_is_asked_or_said_why_not() -> None:
    assert {*QUESTIONS, *NOT_EXPRESSED} == set(PUBLISHED)


def test_the_table_in_the_docs_has_every_case() -> None:
    page = (ROOT / "docs" / "cases.md").read_text("utf-8")
    assert [case for case in PUBLISHED if f"| {case} |" not in page] == []
