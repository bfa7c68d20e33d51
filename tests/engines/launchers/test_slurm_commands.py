import math

import pytest

from pdctl.engines.launchers.slurm_commands import SlurmJob, num_gpus, parse_left


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:8", 8),
        ("gpu:h100:8(S:0-1)", 8),
        ("gpu:h100:4(IDX:0-3),gpu:a100:2(IDX:4-5)", 6),
        ("nvme:1,gpu:2", 2),
        ("(null)", 0),
        ("", 0),
    ],
)
def test_gpus_are_counted_in_slurm_s_words(gres: str, gpus: int) -> None:
    assert num_gpus(gres) == gpus


def test_a_job_in_its_last_moments_is_neither_over_nor_expected() -> None:
    assert SlurmJob("1", "PENDING").is_expected
    assert SlurmJob("1", "RUNNING").is_expected
    ending = SlurmJob("1", "COMPLETING")
    assert not ending.is_expected
    assert not ending.is_over
    assert SlurmJob("1", "").is_over
    assert SlurmJob("1", "TIMEOUT").is_over


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04\n", 93_784.0),
        ("2:03:04", 7_384.0),
        ("3:04", 184.0),
        ("0:00", 0.0),
        ("UNLIMITED", math.inf),
        ("INVALID", None),
        ("", None),
    ],
)
def test_the_time_left_is_read_as_slurm_writes_it(text: str, seconds: float | None) -> None:
    assert parse_left(text) == seconds
