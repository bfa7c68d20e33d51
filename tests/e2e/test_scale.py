"""Scale as a user does, requests running all the while."""

import json
import time
from typing import Any

from tests.bench.under_load import under_load
from tests.e2e.cli import Cli, free_port, kill, processes_of, until

MODEL = ("qwen3-8b", "--engine", "sim", "--sim-speed", "20", "--no-input", "--name", "chat", "-d")


def up(cli: Cli, prefill: int, total: int) -> dict[str, Any]:
    sizes = ("--prefill", str(prefill), "--total", str(total))
    done = cli.run("up", *MODEL, *sizes, "--port", str(free_port()))
    assert done.returncode == 0, done.stderr
    return cli.state("chat")


def names(cli: Cli) -> list[str]:
    return sorted(p["name"] for p in cli.state("chat")["processes"])


def test_engines_come_go_and_change_roles_while_requests_run(cli: Cli) -> None:
    before = up(cli, 1, 3)
    with under_load(before["endpoint"], 10) as load:
        for args, layout in (
            (("--prefill", "2"), "2P1D"),
            (("--total", "4", "--prefill", "2"), "2P2D"),
            (("--decode", "3"), "1P3D"),
            (("--prefill", "1", "--decode", "1"), "1P1D"),
        ):
            done = cli.run("scale", *args, "--json")
            assert done.returncode == 0, done.stderr
            data = json.loads(done.stdout)["data"]
            assert data["layout"] == layout
            assert data["state"]["phase"] == "serving"
    assert load.failed == []
    assert len(load.sent) > 20
    assert names(cli) == ["decode-0", "prefill-0", "router"]
    events = cli.run("logs", "--events", "--tail", "500").stdout
    assert "decode-1 becomes prefill-1 without a restart" in events
    assert "it kept running" in events
    assert cli.run("down").returncode == 0
    assert processes_of(before["run_id"]) == []


def test_what_cannot_serve_is_refused_and_asking_twice_changes_nothing(cli: Cli) -> None:
    up(cli, 1, 2)
    refused = cli.run("scale", "--prefill", "2", "--json")
    assert refused.returncode == 2
    assert json.loads(refused.stdout)["error"]["code"] == "cannot_serve"
    assert cli.run("scale", "--total", "2").stdout == "chat already runs 1P1D and serves.\n"
    assert cli.state("chat")["revision"] == 0


def test_two_commands_at_once_happen_one_after_the_other(cli: Cli) -> None:
    up(cli, 1, 2)
    with (
        cli.running("scale", "--prefill", "1", "--decode", "2") as one,
        cli.running("scale", "--prefill", "2", "--decode", "2") as two,
    ):
        assert (one.wait(60), two.wait(60)) == (0, 0)
    state = cli.until_serving("chat")
    assert state["revision"] == 2
    assert state["layout"] in ("1P2D", "2P2D")
    assert names(cli)[:2] == ["decode-0", "decode-1"]


def test_ctrl_c_ends_the_waiting_and_not_the_change(cli: Cli) -> None:
    up(cli, 1, 2)
    with cli.running("scale", "--prefill", "1", "--decode", "2") as scale:
        until(lambda: cli.state("chat").get("revision") == 1)
        scale.send_signal(2)
        _, err = scale.communicate(timeout=60)
    assert scale.returncode == 130
    assert "continues" in err
    until(lambda: "decode-1" in names(cli))
    cli.until_serving("chat")


def test_a_supervisor_killed_while_an_engine_drains_lets_it_finish(cli: Cli) -> None:
    before = up(cli, 1, 3)
    # long enough that the killed supervisor's successor finds it inside
    with under_load(before["endpoint"], 2, osl=4000) as load:
        time.sleep(1.5)
        assert cli.run("scale", "--prefill", "1", "--decode", "1", "--no-wait").returncode == 0
        until(lambda: any(p["phase"] == "draining" for p in cli.state("chat")["processes"]))
        kill(cli.state("chat")["supervisor_pid"])
        until(lambda: "decode-1" not in names(cli))
    assert load.failed == []
    assert cli.until_serving("chat")["supervisor_pid"] != before["supervisor_pid"]
