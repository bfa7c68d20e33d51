"""`up --dry-run` and `render shell` for a machine that is not this one."""

import json
from pathlib import Path

import pytest

from pdctl.cli import main

SPLIT = ("up", "Qwen/Qwen3-32B", "--prefill", "1", "--total", "3", "--tp", "2", "--dry-run")


@pytest.fixture(autouse=True)
def _no_cached_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(here / "hf"))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_commands_are_written_for_gpus_that_are_not_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*SPLIT, "--gpus", "8xH200") == 0
    said = capsys.readouterr()
    assert said.out.count("sglang.launch_server --model-path Qwen/Qwen3-32B") == 3
    assert "CUDA_VISIBLE_DEVICES=4,5" in said.out
    for text in (said.out, said.err):
        assert "Flags are those of SGLang 0.5.23; KV moves by NIXL over NVLink" in text


def test_as_json_each_process_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SPLIT, "--gpus", "8xH200", "--json") == 0
    data = json.loads(capsys.readouterr().out)["data"]
    names = [one["name"] for one in data["processes"]]
    assert names == ["router", "prefill-0", "decode-0", "decode-1"]


def test_engines_of_a_file_with_a_container_run_in_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "pd.yaml").write_text(
        "schema: 1\nmodel: Qwen/Qwen3-32B\ngpus: 8xH200\n"
        "container: {runtime: docker, image: sglang:1}\n"
        "prefill: {engines: 1, image: sglang:2}\ndecode: {engines: 2}\n"
    )
    assert run("up", "--dry-run") == 0
    said = capsys.readouterr().out
    assert said.count("docker run") == 3
    assert (said.count(" sglang:1 python3 -m"), said.count(" sglang:2 python3 -m")) == (2, 1)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--gpus", "4xH200"), "1P2D needs 6 GPUs"),
        (("--gpus", "8xH900"), "H900"),
        (("--gpus", "8xH200", "--args", "--page-size 0"), "--page-size"),
    ],
)
def test_what_that_machine_could_not_run_is_refused(
    more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SPLIT, *more) == 2
    assert said in capsys.readouterr().err


def test_sizes_that_sglang_refuses_are_refused_there_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wide = ("up", "qwen3-8b", "--prefill", "0", "--total", "1", "--tp", "3", "--dry-run")
    assert run(*wide, "--gpus", "8xH200") == 2
    assert "attention heads of qwen3-8b" in capsys.readouterr().err


@pytest.mark.slow
def test_a_plan_is_rendered_for_the_gpus_it_was_made_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lengths = ("--isl", "2000", "--osl", "200", "--rate", "2", "--isl-cv", "0", "--osl-cv", "0")
    assert run("plan", "qwen3-8b", "--gpus", "2xA100", *lengths) == 0
    capsys.readouterr()
    assert run("render", "shell") == 0
    said = capsys.readouterr()
    assert "# Flags are those of SGLang 0.5.23" in said.out
    assert "SGLang does not know pdctl's name qwen3-8b" in said.out
