"""A 2P6D deployment of simulated engines behind the real router, as a user runs it."""

import json
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pdctl.deployment.pd_yaml import read_deployment
from pdctl.deployment.records import RolePlan
from pdctl.engines import state
from pdctl.engines.lifecycle import start
from pdctl.engines.lifecycle.start import planning, prepare
from tests.e2e.cli import (
    Cli,
    free_port,
    is_listening,
    kill,
    kill_for_good,
    ports_of,
    processes_of,
    until,
)

MODEL = ("qwen3-8b", "--engine", "sim", "--sim-speed", "20", "--no-input")


def stream(endpoint: str, number: int, tokens: int = 8) -> tuple[int, bool]:
    """One streamed request; its tokens and whether it was told to be over."""
    body = {
        "input_ids": list(range(100 + number)),
        "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True},
        "stream": True,
    }
    request = urllib.request.Request(
        f"{endpoint}/generate",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        events = [line[5:].strip() for line in answer if line.startswith(b"data:")]
    last = json.loads(events[-2])
    return int(last["meta_info"]["completion_tokens"]), events[-1] == b"[DONE]"


def test_eight_engines_serve_streams_and_leave_nothing_behind(cli: Cli) -> None:
    port = free_port()
    up = cli.run(
        "up", *MODEL, "--prefill", "2", "--total", "8", "--port", str(port), "-d", "--json"
    )
    assert up.returncode == 0, up.stderr
    state = json.loads(up.stdout)["data"]
    assert (state["phase"], state["layout"]) == ("serving", "2P6D")
    assert state["first_request_ttft_s"] > 0
    assert [p["phase"] for p in state["processes"]] == ["serving"] * 9

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: stream(state["endpoint"], i), range(48)))
    assert answers == [(8, True)] * 48

    listed = json.loads(cli.run("ls", "--json").stdout)["data"]
    assert [(one["name"], one["phase"]) for one in listed] == [("qwen3-8b", "serving")]
    assert "all serve" in cli.run("logs", "--events").stdout

    down = cli.run("down", "--json")
    assert down.returncode == 0, down.stderr
    assert json.loads(down.stdout)["data"]["stopped"][0]["killed"] == []
    assert processes_of(state["run_id"]) == []
    assert not [p for p in ports_of(state) if is_listening(p)]
    assert cli.run("down").returncode == 7
    assert json.loads(cli.run("ls", "--json").stdout)["data"] == []


def test_ctrl_c_stops_a_foreground_deployment(cli: Cli) -> None:
    args = ("up", *MODEL, "--total", "2", "--port", str(free_port()), "--name", "fore")
    with cli.running(*args) as up:
        assert up.stdout is not None
        out = "".join(up.stdout.readline() for _ in range(5))
        state = cli.state("fore")
        up.send_signal(2)
        _, err = up.communicate(timeout=60)
    assert up.returncode == 130
    assert f"\n  {state['endpoint']}\n  curl " in out
    assert err.endswith("stopped\n")
    assert processes_of(state["run_id"]) == []


def test_a_foreground_deployment_dies_with_its_command(cli: Cli) -> None:
    args = ("up", *MODEL, "--total", "2", "--port", str(free_port()), "--name", "fore")
    with cli.running(*args) as up:
        state = cli.until_serving("fore")
        kill(up.pid)
        up.communicate(timeout=60)
    until(lambda: not processes_of(state["run_id"]))
    assert cli.run("down", "fore").returncode == 7


def test_a_foreground_deployment_dies_with_its_supervisor(cli: Cli) -> None:
    args = ("up", *MODEL, "--total", "2", "--port", str(free_port()), "--name", "fore")
    with cli.running(*args) as up:
        state = cli.until_serving("fore")
        kill(state["supervisor_pid"])
        _, err = up.communicate(timeout=60)
    assert up.returncode == 5
    assert "supervisor" in err
    assert processes_of(state["run_id"]) == []


def test_detached_engines_outlive_their_supervisor_and_are_adopted_again(cli: Cli) -> None:
    args = ("up", *MODEL, "--total", "2", "--port", str(free_port()), "--name", "chat", "-d")
    assert cli.run(*args).returncode == 0
    before = cli.state("chat")
    kill_for_good(before["supervisor_pid"])
    assert stream(before["endpoint"], 1) == (8, True)
    again = cli.run(*args)
    assert again.returncode == 7
    assert "--resume" in again.stderr
    assert cli.run("up", "--resume", "--name", "chat").returncode == 0
    after = cli.until_serving("chat")
    assert after["supervisor_pid"] != before["supervisor_pid"]
    assert [p["handle"] for p in after["processes"]] == [p["handle"] for p in before["processes"]]
    assert cli.run("down", "chat").returncode == 0
    assert processes_of(before["run_id"]) == []


def test_a_killed_supervisor_comes_back_by_itself_and_adopts_its_engines(cli: Cli) -> None:
    args = ("up", *MODEL, "--total", "2", "--port", str(free_port()), "--name", "chat", "-d")
    assert cli.run(*args).returncode == 0
    before = cli.state("chat")
    kill(before["supervisor_pid"])
    until(lambda: cli.state("chat")["supervisor_pid"] != before["supervisor_pid"])
    after = cli.until_serving("chat")
    assert [p["handle"] for p in after["processes"]] == [p["handle"] for p in before["processes"]]
    assert cli.run("down", "chat").returncode == 0
    assert processes_of(before["run_id"]) == []


def test_down_works_without_a_supervisor(cli: Cli) -> None:
    args = ("up", *MODEL, "--total", "2", "--port", str(free_port()), "--name", "chat", "-d")
    assert cli.run(*args).returncode == 0
    state = cli.state("chat")
    kill_for_good(state["supervisor_pid"])
    assert cli.run("down").returncode == 0
    assert processes_of(state["run_id"]) == []
    assert not [p for p in ports_of(state) if is_listening(p)]


def test_up_on_a_running_name_is_a_conflict_with_what_to_do(cli: Cli) -> None:
    args = ("up", *MODEL, "--total", "2", "--port", str(free_port()), "--name", "chat", "-d")
    assert cli.run(*args).returncode == 0
    again = cli.run(*args, "--json")
    assert again.returncode == 7
    assert json.loads(again.stdout)["error"]["code"] == "already_running"
    assert "pdctl down chat" in json.loads(again.stdout)["error"]["hint"]


def test_two_deployments_started_at_once_get_ports_of_their_own(cli: Cli) -> None:
    first = free_port()
    second = free_port(first + 1)
    both = ("up", *MODEL, "--total", "2", "--name")
    with (
        cli.running(*both, "one", "--port", str(first)),
        cli.running(*both, "two", "--port", str(second)),
    ):
        one, two = cli.until_serving("one"), cli.until_serving("two")
        assert not set(ports_of(one)) & set(ports_of(two))
        assert stream(one["endpoint"], 1) == stream(two["endpoint"], 2) == (8, True)
        assert cli.run("down").returncode == 7


def test_more_and_fewer_engines_while_requests_stream_lose_none(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(cli.home))
    args = ("up", *MODEL, "--total", "2", "--gpus", "4xH200", "--port", str(free_port()))
    assert cli.run(*args, "-d", "--name", "chat").returncode == 0
    endpoint = cli.state("chat")["endpoint"]
    answers: list[tuple[int, bool]] = []
    is_over = threading.Event()

    def keep_asking() -> None:
        while not is_over.is_set():
            answers.append(stream(endpoint, 3))

    with ThreadPoolExecutor(4) as pool:
        askers = [pool.submit(keep_asking) for _ in range(4)]
        try:
            for num_prefill, num_decode in ((2, 2), (1, 2), (1, 1)):
                change_to(cli, num_prefill, num_decode)
        finally:
            is_over.set()
        for asker in askers:
            asker.result()
    assert len(answers) > 20
    assert set(answers) == {(8, True)}


def change_to(cli: Cli, num_prefill: int, num_decode: int) -> None:
    """Have "chat" go over to another layout, and wait until it has."""
    with planning():
        launched = state.read_launch("chat")
        assert launched is not None
        roles = {"prefill": RolePlan(num_prefill), "decode": RolePlan(num_decode)}
        wanted = replace(
            read_deployment(cli.home / "chat" / "desired.yaml"),
            roles=roles,  # type: ignore[arg-type]
        )
        changed = start.change(prepare(wanted, present=launched.specs))
    names = {spec.name for spec in changed.specs}

    def is_there() -> bool:
        seen = cli.state("chat")
        running = {process["name"] for process in seen["processes"]}
        return running == names and seen["phase"] == "serving"

    until(is_there)
