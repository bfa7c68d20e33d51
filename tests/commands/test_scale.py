"""What `scale --dry-run` says, and what `scale` and `down` refuse."""

import pytest

from pdctl.cli import main
from pdctl.commands.scale_run import effect_line
from pdctl.measurement.scale_effect import ScaleEffect, TailLatencies


def test_the_predicted_effect_is_one_sentence() -> None:
    before, after = TailLatencies(1.9, 0.022), TailLatencies(0.7, None)
    effect = ScaleEffect(3.4, 10.0, "roofline", before, after)
    assert effect_line(effect) == (
        "At 3.4 req/s: TTFT p99 1.9 s → 700 ms, TPOT p99 22 ms → unknown (predicted, roofline)."
    )


def test_an_unknown_effect_says_why() -> None:
    assert effect_line("Only 3 requests ended.") == "Effect unknown. Only 3 requests ended."


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["scale", "--undo", "--prefill", "3"], "--undo cannot be combined"),
        (["down", "chat", "--all"], "either --all or names"),
    ],
)
def test_contradictions_are_refused(
    command: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
