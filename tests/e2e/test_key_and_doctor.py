"""A deployment with an API key, and what the doctor says of it, well and broken."""

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.cli import Cli, free_port, kill, process_pid, until

KEY = "correct-horse-battery-staple"
UP = ("up", "qwen3-8b", "--engine", "sim", "--sim-speed", "20", "--no-input", "-d", "--json")
BODY = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 2}}


@pytest.fixture
def keyed(cli: Cli, tmp_path: Path) -> dict[str, Any]:
    """The state of a running 1P1D deployment with a key."""
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    key.chmod(0o600)
    port = str(free_port())
    sizes = ("--prefill", "1", "--total", "2", "--port", port, "--name", "chat")
    up = cli.run(*UP, *sizes, "--api-key-file", str(key))
    assert up.returncode == 0, up.stderr
    found: dict[str, Any] = json.loads(up.stdout)["data"]
    return found


def _status(url: str, *, key: str = "") -> int:
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, data=json.dumps(BODY).encode(), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def _doctor(cli: Cli) -> tuple[int, dict[str, str]]:
    """The exit code, and the outcome of each check of the deployment."""
    done = cli.run("doctor", "chat", "--quick", "--json")
    checks = json.loads(done.stdout)["data"]["checks"]
    return done.returncode, {c["id"]: c["outcome"] for c in checks if c["deployment"]}


def test_a_deployment_with_a_key_hides_it_and_the_doctor_tells_well_from_broken(
    cli: Cli, keyed: dict[str, Any]
) -> None:
    assert os.environ.get("PDCTL_API_KEY") is None
    _assert_locked(keyed)
    _assert_hidden(cli)
    # who started it is not asked for the key again
    status = cli.run("status", "chat", "--once", "--json")
    assert json.loads(status.stdout)["data"]["verdict"] == "serving"
    code, outcomes = _doctor(cli)
    assert "fail" not in outcomes.values()
    assert outcomes["registries"] == outcomes["registered"] == outcomes["page_size"] == "pass"
    kill(process_pid(keyed, "decode-0"))
    until(lambda: cli.state("chat")["phase"] == "degraded")
    code, outcomes = _doctor(cli)
    assert code == 5
    assert outcomes["engines"] == "fail"


def _assert_locked(keyed: dict[str, Any]) -> None:
    engine = next(p["url"] for p in keyed["processes"] if p["name"] == "prefill-0")
    assert _status(f"{keyed['endpoint']}/generate") == 401
    assert _status(f"{engine}/generate") == 401
    assert _status(f"{keyed['endpoint']}/generate", key=KEY) == 200


def _assert_hidden(cli: Cli) -> None:
    command_lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not [line for line in command_lines if KEY in line]
    files = [path for path in cli.home.rglob("*") if path.is_file()]
    assert any(path.name == "router.log" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
