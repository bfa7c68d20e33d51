"""The comparison with public measurements, on points made up here."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.accuracy.left_out import left_out
from tests.accuracy.public_points import (
    Errors,
    closed_loop,
    errors_of,
    fleet_of,
    main,
    requests_of,
)

POINT: dict[str, Any] = {
    "model": "small",
    "gpu": "H200",
    "precision": "bf16",
    "isl": 1000,
    "osl": 100,
    "range": 0.8,
    "concurrency": 4,
    "ttft_ms": 50.0,
    "tpot_ms": 5.0,
    "version": "0.5.9",
    "layout": {"colocated": {"tp": 1, "ep": 1, "dp": 1}, "num": 1},
    "flags": {},
    "suite": "made-up",
    "peer_ttft_ms": 40.0,
    "peer_tpot_ms": 6.0,
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "public_models" / "small-bf16"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder.parent


def test_lengths_are_uniform_within_the_range_and_ten_per_client() -> None:
    drawn = requests_of(POINT)
    assert len(drawn) == 40
    assert 800 <= min(drawn.isl) < max(drawn.isl) <= 1000
    assert 80 <= min(drawn.osl) < max(drawn.osl) <= 100
    equal = requests_of({**POINT, "range": 1.0})
    assert set(equal.isl) == {1000}


def test_launch_flags_are_those_of_the_run(models: Path) -> None:
    flagged = {**POINT, "flags": {"chunk": 2048, "max_running": 3, "kv": 1, "radix": 0}}
    plain = fleet_of(flagged, models, with_flags=False)
    told = fleet_of(flagged, models, with_flags=True)
    assert plain is not None
    assert told is not None
    assert plain.colocated is not None
    assert told.colocated is not None
    assert told.colocated.chunked_prefill_size == 2048 != plain.colocated.chunked_prefill_size
    assert told.colocated.max_running_requests == 3
    assert not told.colocated.radix_cache
    assert told.colocated.kv_capacity_tokens > 1.9 * plain.colocated.kv_capacity_tokens


def test_engines_that_the_other_planner_launched_mix_chunks_where_its_flags_are_spelled_right(
    models: Path,
) -> None:
    def is_mixed(version: str, suite: str, *, with_flags: bool = True) -> bool:
        point = {**POINT, "version": version, "suite": suite}
        fleet = fleet_of(point, models, with_flags=with_flags)
        assert fleet is not None
        assert fleet.colocated is not None
        return fleet.colocated.mixed_chunk

    assert is_mixed("0.5.6.post2", "genai-perf")
    assert not is_mixed("0.5.6.post2", "genai-perf", with_flags=False)
    assert not is_mixed("0.5.1.post1", "genai-perf")
    assert not is_mixed("0.5.9", "inferencex")


def test_a_receive_interval_delays_first_tokens(models: Path) -> None:
    slow = {**POINT, "flags": {"recv": 30}}
    (plain,) = errors_of([{**POINT, "ttft_ms": 0.001}], models, closed_loop, with_flags=True)
    (late,) = errors_of([{**slow, "ttft_ms": 0.001}], models, closed_loop, with_flags=True)
    assert late.ttft > plain.ttft


def test_the_table_has_each_group_and_what_was_left_out(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = {**POINT, "layout": {"prefill": {}, "decode": {}}}
    other = {**POINT, "suite": "another", "peer_ttft_ms": None, "peer_tpot_ms": None}
    file = tmp_path / "points.json"
    file.write_text(json.dumps([POINT, other, split]))
    main([str(file), "--models", str(models)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "points",
        "another",
        "made-up",
        "all",
        "all",
        "1",
    ]
    assert lines[2].endswith("1    20 / 20 %    20 / 20 %")
    assert lines[-1] == "1 points were not simulated."


@pytest.mark.parametrize("way", [(), ("--steady",), ("--poisson",), ("--no-flags",)])
def test_each_way_to_run_gives_a_table(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str], way: tuple[str, ...]
) -> None:
    file = tmp_path / "points.json"
    file.write_text(json.dumps([POINT]))
    main([str(file), *way])
    assert "all that both tools do" in capsys.readouterr().out


def test_constants_are_chosen_by_the_other_configurations_only(models: Path) -> None:
    (one,) = errors_of([POINT], models, closed_loop, with_flags=True)

    def run(*errors: float) -> list[Errors]:
        return [
            replace(one, configuration=name, signed_tpot=error)
            for name, error in zip(("a", "b"), errors, strict=True)
        ]

    runs = [run(0.1, 0.4), run(0.3, 0.2)]
    assert list(left_out(runs, lambda errors: errors.tpot)) == [(0.3, 1), (0.4, 0)]
