"""The JSON of verbs that need a deployment fits the schemas that `pdctl schema` prints."""

import json

import pytest

from tests.commands.test_schema import check
from tests.e2e.cli import Cli, free_port

LOAD = ("--isl", "200", "--osl", "20", "--rate", "20")


def _ask(cli: Cli, verb: str, *arguments: str) -> None:
    done = cli.run(verb, *arguments, "--json")
    for line in done.stdout.splitlines():
        check(verb, json.loads(line))
    assert done.stdout, done.stderr


@pytest.fixture
def chat(cli: Cli) -> str:
    """A deployment of three simulated engines; its endpoint."""
    port = free_port()
    sim = ("qwen3-8b", "--engine", "sim", "--prefill", "1", "--total", "3", "--sim-speed", "4")
    done = cli.run("up", *sim, "--name", "chat", "--port", str(port), "-d", "--json")
    assert done.returncode == 0, done.stderr
    check("up", json.loads(done.stdout))
    return f"http://127.0.0.1:{port}"


def test_verbs_on_a_running_deployment_fit_their_schemas(cli: Cli, chat: str) -> None:
    _ask(cli, "status", "chat", "--once")
    _ask(cli, "ls")
    _ask(cli, "logs", "chat")
    _ask(cli, "logs", "chat", "--events")
    _ask(cli, "logs", "chat", "--bundle", "report.tar.gz")
    _ask(cli, "doctor", "chat", "--quick")
    _ask(cli, "measure", "--target", chat, *LOAD, "--duration", "3s")
    _ask(cli, "explain", "--slowest", "3")
    _ask(cli, "scale", "chat", "--prefill", "2", "--dry-run", "--window", "1s")
    _ask(cli, "scale", "chat", "--prefill", "2")
    _ask(cli, "scale", "chat", "--undo", "--no-wait")
    _ask(cli, "calibrate", "--from", chat, "--window", "1s")
    _ask(cli, "down", "--all")


def test_a_rehearsal_and_a_calibration_fit_their_schemas(cli: Cli) -> None:
    _ask(cli, "rehearse", "qwen3-8b", "--prefill", "1", "--total", "2", "--duration", "5s")
    _ask(cli, "calibrate", "qwen3-8b", "--engine", "sim", "--sim-speed", "10", "--budget", "5s")
