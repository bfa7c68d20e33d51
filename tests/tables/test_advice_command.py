"""The command that follows an advice, as a person would type it."""

from dataclasses import replace

import pytest

from pdctl.deployment.records import Counts
from pdctl.status.records import Advice
from pdctl.tables.advice_command import advice_command
from tests.status.fleets import BUSY


@pytest.mark.parametrize(
    ("advice", "command"),
    [
        (Advice("prefill_bound", "", change=Counts(prefill=3)), "pdctl scale chat --prefill 3"),
        (
            Advice("overloaded", "", change=Counts(prefill=3, decode=7)),
            "pdctl scale chat --prefill 3 --decode 7",
        ),
        (Advice("overloaded", "", change=Counts(total=9)), "pdctl scale chat --total 9"),
        (Advice("network_bound", ""), "pdctl doctor chat"),
        (Advice("sick_engine", "", engine="decode-1"), "pdctl logs decode-1 --name chat"),
        (Advice("stuck_transfers", ""), "pdctl logs --name chat"),
        (Advice("healthy", ""), ""),
    ],
)
def test_the_command_follows_from_the_advice(advice: Advice, command: str) -> None:
    assert advice_command(replace(BUSY, advice=advice)) == command


def test_a_deployment_that_pdctl_did_not_start_gets_no_command() -> None:
    assert advice_command(replace(BUSY, is_ours=False)) == ""
