"""Measure what runs already, as a user does."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import pytest

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


def test_a_deployment_with_a_key_is_measured_and_planned_for_from_what_it_is_asked(
    cli: Cli, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef\n")
    key.chmod(0o600)
    with_key = ("--api-key-file", str(key))
    url = f"http://127.0.0.1:{(port := free_port())}"
    sizes = ("--prefill", "1", "--total", "2", "--port", str(port), "-d")
    what = ("qwen3-8b", "--engine", "sim", "--gpus", "2xH200", "--name", "chat")
    up = cli.run("up", *what, *sizes, *with_key)
    assert up.returncode == 0, up.stderr
    equal = ("--isl-cv", "0", "--osl-cv", "0")
    load = ("--isl", "1000", "--osl", "20", *equal, "--rate", "20", "--duration", "12s")
    with ThreadPoolExecutor() as pool:
        measured = pool.submit(cli.run, "measure", "--target", url, *load, *with_key)
        sleep(5)
        planned = cli.run("plan", "--from", "chat", "--window", "5s", *with_key)
    assert measured.result().returncode == 0, measured.result().stderr
    assert planned.returncode == 0, planned.stderr
    assert "Taking the model of chat: qwen3-8b." in planned.stderr
    seen = re.search(r"Seen at \S+ ([\d.]+) req/s, ISL ([\d,]+), OSL (\d+)", planned.stderr)
    assert seen is not None, planned.stderr
    assert float(seen[1]) == pytest.approx(20, rel=0.3)
    assert int(seen[2].replace(",", "")) == pytest.approx(1000, rel=0.1)
    assert int(seen[3]) == pytest.approx(20, abs=3)
