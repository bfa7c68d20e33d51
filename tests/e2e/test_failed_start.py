"""Starts that fail: one sentence, a hint, the right exit code, and nothing left."""

import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.cli import PATIENCE_S, Cli, free_port

SIM = ("up", "qwen3-8b", "--engine", "sim", "--total", "2", "--no-input", "--name", "bad")


def nothing_is_left(cli: Cli) -> bool:
    files = {path.name for path in cli.home.glob("bad/*")}
    return not files & {"state.json", "launch.json"} and cli.run("down", "bad").returncode == 7


def test_an_engine_that_exits_at_once_shows_its_telling_line_and_its_end(cli: Cli) -> None:
    done = cli.run(*SIM, "--port", str(free_port()), "--decode-args", "--sim-noise x")
    assert done.returncode == 5
    assert "error: decode-0 exited with status 2" in done.stderr
    first, *rest = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert first.endswith("invalid float value: 'x'")
    assert "invalid float value: 'x'" in rest[-2]
    assert "hint:  pdctl logs decode-0" in done.stderr
    assert nothing_is_left(cli)
    assert "invalid float value" in cli.run("logs", "decode-0").stdout


def test_an_engine_that_never_becomes_ready_is_told_with_what_it_was_doing(cli: Cli) -> None:
    slow = ("--args", "--sim-start-s 60", "--timeout", "3s")
    done = cli.run(*SIM, "--port", str(free_port()), *slow)
    assert done.returncode == 6
    assert "not ready in time" in done.stderr
    assert "--timeout" in done.stderr
    assert nothing_is_left(cli)


def test_a_router_that_dies_ends_the_start(cli: Cli) -> None:
    done = cli.run(*SIM, "--port", str(free_port()), "--router-args", "--no-such-flag", "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["error"]["code"] == "router_failed"
    assert nothing_is_left(cli)


def test_a_port_in_use_is_refused_before_anything_starts(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = cli.run(*SIM, "--port", str(port))
    assert done.returncode == 4
    assert str(port) in done.stderr
    assert "hint:  --port" in done.stderr
    assert nothing_is_left(cli)


def test_without_sglang_the_hint_names_the_extra_and_simulated_engines(cli: Cli) -> None:
    done = cli.run("up", "/models/x", "--total", "2", "--python", sys.executable, "--no-input")
    if "SGLang is not installed" not in done.stderr:
        pytest.skip("SGLang is installed here")
    assert done.returncode == 4
    assert "pip install sglang" in done.stderr
    assert "--engine sim" in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--name", "../x"), 2, "'../x'"),
        (("--prefill", "2"), 2, "--prefill 2 of --total 2"),
        (("--tp", "3"), 2, "tp 3 does not divide"),
        (("--port", "70000"), 2, "70000"),
        (("--timeout", "-1s"), 2, "--timeout"),
        (("--decode-args", "'"), 2, "Cannot split"),
        (("--sim-speed", "nan"), 2, "sim-speed"),
        (("-f", "missing.yaml"), 2, "missing.yaml"),
    ],
)
def test_bad_input_is_one_sentence_and_a_hint(
    args: tuple[str, ...], code: int, said: str, cli: Cli
) -> None:
    done = cli.run(*SIM, *args)
    assert done.returncode == code, done.stderr
    assert said in done.stderr.splitlines()[-2]
    assert done.stderr.splitlines()[-1].startswith("hint:  ")
    assert not cli.home.exists() or not list(cli.home.glob("*/launch.json"))


def test_without_a_model_it_is_said_what_is_missing(cli: Cli) -> None:
    done = cli.run("up", "--prefill", "2", "--total", "8", "--no-input")
    assert done.returncode == 2
    assert "pd.yaml" in done.stderr


def test_a_state_home_that_cannot_be_written_starts_nothing(tmp_path: Path) -> None:
    done = Cli(home=Path("/proc/nowhere"), cwd=tmp_path).run(*SIM)
    assert done.returncode == 4
    assert "PDCTL_STATE_HOME" in done.stderr


def test_a_dry_run_starts_nothing_and_prints_commands(cli: Cli) -> None:
    done = cli.run(*SIM, "--port", str(free_port()), "--dry-run")
    assert done.returncode == 0
    assert "-m sglang_router.launch_router" in done.stdout
    assert done.stdout.count("-m pdctl.engines.sim") == 2
    assert nothing_is_left(cli)


def test_a_written_file_starts_the_same_deployment(cli: Cli) -> None:
    port = str(free_port())
    assert cli.run(*SIM, "--port", port, "-o", "pd.yaml").returncode == 0
    from_file = cli.run("up", "--no-input", "--dry-run").stdout
    from_flags = cli.run(*SIM, "--port", port, "--dry-run").stdout
    # other deployments of this machine come and go meanwhile, so only the ports may differ
    assert _without_ports(from_file) == _without_ports(from_flags)


def _without_ports(commands: str) -> str:
    return re.sub(r"(?<=[ :])\d{5}\b", "PORT", commands)


def test_users_who_start_on_one_port_at_the_same_moment_do_not_share_a_router(cli: Cli) -> None:
    """Each has a state directory that the other cannot read, and neither router listens yet."""
    users = [Cli(cli.home / user, cli.cwd) for user in ("first", "second")]
    command = (*SIM, "--prefill", "0", "--port", str(free_port()), "-d")
    with users[0].running(*command) as first, users[1].running(*command) as second:
        said = [one.communicate(timeout=PATIENCE_S)[1] for one in (first, second)]
    codes = [first.returncode, second.returncode]
    assert sorted(codes) == [0, 4]
    assert "is already in use" in said[codes.index(4)]
    assert users[codes.index(0)].run("down").returncode == 0


def test_a_start_from_a_folder_that_was_deleted_serves(cli: Cli) -> None:
    folder = cli.cwd / "gone"
    folder.mkdir()
    up = shlex.join([sys.executable, "-m", "pdctl", *SIM, "--port", str(free_port()), "-d"])
    done = subprocess.run(
        f"rmdir {folder} && {up}", shell=True, cwd=folder, env=cli.environment, check=False
    )
    assert done.returncode == 0
    assert cli.run("down").returncode == 0
