"""The command line: lazy verbs, error reports, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pdctl.cli import main
from pdctl.commands.command_line.verbs import VERBS

# libraries that `--help` of a verb must not import
SLOW_IMPORTS = ("numpy", "aiohttp", "yaml", "pydantic", "psutil", "ray", "sglang", "asyncio")
# stages that a verb imports only when it runs
LATE_STAGES = ("pdctl.engines", "pdctl.doctor", "pdctl.measurement", "pdctl.tables")


def _run(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pdctl", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1", **env},
        stdin=subprocess.DEVNULL,
    )


def test_help_lists_every_verb() -> None:
    done = _run("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert f"  {verb} " in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_two_examples(verb: str) -> None:
    text = _run(verb, "--help").stdout
    assert text.count(f"pdctl {verb}") >= 3, "a usage line and two examples"
    assert "--json" in text


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)])
def test_help_imports_nothing_slow(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom pdctl.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        f"slow = [m for m in {(*SLOW_IMPORTS, *LATE_STAGES)!r} if m in sys.modules]\n"
        "sys.exit(f'imported {slow}' if slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["plan", "--no-such-flag"], ["plan", "x", "--tp", "many"]]
)
def test_a_wrong_command_line_is_one_sentence_a_hint_and_exit_2(arguments: list[str]) -> None:
    done = _run(*arguments)
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint:  pdctl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("up qwen3-8b --totl 4", "pdctl up has no option --totl. Did you mean --total?"),
        ("plan qwen3-8b --gpu 8xH200", "pdctl plan has no option --gpu. Did you mean --gpus?"),
        ("plan --zzzzzz", "pdctl plan has no option --zzzzzz."),
        ("schema", "pdctl schema needs VERB."),
        ("render", "pdctl render needs TARGET."),
        ("plna", "There is no verb 'plna'. Did you mean plan?"),
        ("help exitcodes", "There is no topic 'exitcodes'. Did you mean exit-codes?"),
        ("help exit", "There is no topic 'exit'. Did you mean exit-codes?"),
        ("up qwen3-8b --prefill two", "--prefill takes a whole number, not two."),
        ("status --metrics-port 0", "--metrics-port takes a whole number from 1 to 65535, not 0."),
        ("plan qwen3-8b qwen3-14b", "pdctl plan does not take 'qwen3-14b' as well."),
        ("plan qwen3-8b --tp", "pdctl plan --tp needs a value."),
    ],
)
def test_a_mistyped_word_is_answered_with_the_one_that_was_meant(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: {message}"


def test_an_encoding_without_arrows_is_no_reason_to_fail() -> None:
    asked = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "pdctl", "plan", "qwen3-8b", "--show-model"]
    done = subprocess.run(command, env=asked, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"36 x " in done.stdout


def test_streams_that_a_script_has_closed_are_no_reason_to_fail() -> None:
    command = f"{sys.executable} -m pdctl help scale <&- >&- 2>&-"
    assert subprocess.run(command, shell=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "arguments", ["--help", "plan --help", "plan --models", "help json", "schema plan"]
)
def test_a_reader_that_has_gone_ends_the_command_as_sigpipe_would(arguments: str) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "pdctl", *arguments.split()]
    with os.fdopen(write) as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_tilde_that_the_shell_left_is_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for option in ("--trace", "--lengths", "--gpu-file"):
        with pytest.raises(SystemExit) as stopped:
            main(["plan", "qwen3-8b", "--gpus", "8xH200", f"{option}=~/none"])
        assert stopped.value.code == 2
        assert f"{tmp_path}/none" in capsys.readouterr().err


def test_a_router_s_address_as_an_argument_is_a_router(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("status", "doctor"):
        with pytest.raises(SystemExit):
            main([verb, "http://127.0.0.1:9"])
        assert "No SGLang router answers at http://127.0.0.1:9." in capsys.readouterr().err


def test_a_usage_error_under_json_is_an_envelope_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", "--json", "--no-such-flag"])
    assert stopped.value.code == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_version_is_the_packages() -> None:
    assert _run("--version").stdout.startswith("pdctl ")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_as_good_as_an_empty_one(closed: str) -> None:
    line = f"{sys.executable} -m pdctl plan --models {closed}"
    assert subprocess.run(["sh", "-c", line], capture_output=True, text=True).returncode == 0


@pytest.mark.parametrize("words", ["plan --models", "plan --models --json", "help exit-codes"])
def test_an_output_without_room_is_one_line(words: str) -> None:
    line = f"{sys.executable} -m pdctl {words} > /dev/full"
    ended = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert ended.returncode == 4
    assert ended.stderr.startswith("error: The output cannot be written: No space left on device.")
    assert "Traceback" not in ended.stderr
