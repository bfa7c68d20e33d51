import threading

import pytest

from pdctl.engines.launchers.each_node import of_each


def test_nodes_are_asked_at_the_same_time_and_answer_in_their_order() -> None:
    meeting = threading.Barrier(3, timeout=5)  # nobody passes it alone

    def ask(node: str) -> str:
        meeting.wait()
        return node.upper()

    assert list(of_each(("b", "a", "c"), ask).items()) == [("b", "B"), ("a", "A"), ("c", "C")]


def test_a_failing_answer_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        of_each((1, 0), lambda number: 1 / number)


def test_no_nodes_have_no_answers() -> None:
    assert of_each((), str) == {}
