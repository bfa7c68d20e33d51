"""Start-up phases, read from logs of real SGLang servers."""

from pathlib import Path

import pytest

from pdctl.engines.log_phases import StartupPhase, read_phases, startup_phase

LOGS = Path(__file__).parent.parent / "data" / "logs"


def phases_of(text: str) -> list[str]:
    """The names of all phases in the order they were first seen, one line at a time."""
    phase: StartupPhase | None = None
    names: list[str] = []
    for line in text.replace("\r", "\n").split("\n"):
        phase = startup_phase(phase, line)
        if phase and (not names or names[-1] != phase.name):
            names.append(phase.name)
    return names


def test_a_decode_engine_on_a_gpu_goes_through_every_phase_once() -> None:
    text = (LOGS / "sglang-0.5.15-decode.log").read_bytes().decode()
    assert phases_of(text) == [
        "schedulers",
        "distributed",
        "weights",
        "memory pool",
        "CUDA graphs",
        "HTTP",
        "warm-up",
        "fired up",
    ]


def test_a_prefill_engine_on_a_cpu_captures_no_graphs() -> None:
    text = (LOGS / "sglang-0.5.23-prefill.log").read_bytes().decode()
    names = phases_of(text)
    assert "CUDA graphs" not in names
    assert names[-1] == "fired up"
    assert names.index("weights") < names.index("memory pool") < names.index("warm-up")


@pytest.mark.parametrize(
    ("line", "name", "share", "count"),
    [
        (
            "Loading safetensors checkpoint shards:  45% Completed | 9/20 [00:07<00:09]",
            "weights",
            0.45,
            "",
        ),
        ("Multi-thread loading shards: 100% Completed | 1/1 [00:00<00:00]", "weights", 1.0, ""),
        (
            "Capturing batches (bs=104 avail_mem=24.21 GB):  56%|█▌ | 20/36 [00:01<00:01]",
            "CUDA graphs",
            20 / 36,
            "20/36",
        ),
        (
            "Capturing num tokens (num_tokens=8192 avail_mem=26.16 GB):   0%| | 0/58 [00:00<?]",
            "CUDA graphs",
            0.0,
            "0/58",
        ),
        ("[2026-11-23 08:36:01 TP3] Load weight begin. avail mem=139.09 GB", "weights", None, ""),
    ],
)
def test_a_line_gives_its_phase_and_how_far_it_is(
    line: str, name: str, share: float | None, count: str
) -> None:
    assert startup_phase(None, line) == StartupPhase(name, share, count)


def test_of_a_bar_drawn_over_and_over_the_last_state_counts() -> None:
    bar = "\rCapturing batches (bs=8):  50%| | 1/2 [0]\rCapturing batches (bs=4): 100%| | 2/2 [0]"
    phase = read_phases(None, bar)
    assert phase is not None
    assert phase.text == "CUDA graphs 2/2"


def test_a_phase_never_goes_back() -> None:
    at_warmup = StartupPhase("warm-up")
    assert startup_phase(at_warmup, "Load weight begin. avail mem=1 GB") is at_warmup


def test_a_line_that_says_nothing_changes_nothing() -> None:
    assert startup_phase(None, "flashinfer is not available") is None
