"""Measure what runs already, as a user does."""

from pathlib import Path

from pdctl.measurement.results import read_results
from tests.e2e.cli import Cli, free_port


def test_a_second_measurement_finds_none_of_the_first_ones_prompts_cached(
    cli: Cli, tmp_path: Path
) -> None:
    port, kept = str(free_port()), tmp_path / "loads.jsonl"
    sizes = ("--prefill", "0", "--total", "1", "--port", port, "-d")
    assert cli.run("up", "qwen3-8b", "--engine", "sim", *sizes).returncode == 0
    target = ("measure", "--target", f"http://127.0.0.1:{port}", "--gpus", "1xH200")
    load = ("--isl", "2000", "--osl", "4", "--rate", "10", "--duration", "1s")
    for _ in range(2):
        done = cli.run(*target, *load, "-o", str(kept))
        assert done.returncode == 0, done.stderr
        assert "predicted (roofline): TTFT p50" in done.stderr
    runs = read_results(kept)
    assert len(runs) == 2
    for run in runs:
        assert sum(one.cached_tokens or 0 for one in run.sent) == 0
        assert all(one.is_whole for one in run.sent)
