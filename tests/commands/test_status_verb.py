"""`pdctl status` from the command line, with fake engines and a temporary state directory."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdctl.cli import main
from pdctl.engines import state
from pdctl.engines.records import DeploymentState, Handle, ProcessState
from pdctl.status.records import Alternative, WhatIf
from pdctl.status.what_if_file import keep_what_if
from tests.engines.test_state import some_launch
from tests.engines.test_untuned_kernels import MOE
from tests.status.servers import Pages, pages_server
from tests.status.test_watch import engine_pages


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.fixture
def held(home: Path) -> Iterator[None]:
    """A deployment "chat" with one engine of each role and a running supervisor."""
    router: Pages = {"/readiness": (200, b"{}")}
    with (
        pages_server(engine_pages("prefill")) as prefill,
        pages_server(engine_pages("decode")) as decode,
        pages_server(router) as url,
    ):
        breakers = f'smg_worker_cb_state{{worker="{prefill}"}} 0\n'
        router["/metrics"] = (200, f"{breakers}smg_router_requests_total 48\n".encode())
        state.make_state_dir("chat")
        state.write_state(fleet_state(url, prefill, decode))
        lock = state.lock("chat")
        assert lock is not None
        yield
        os.close(lock)


def fleet_state(router: str, prefill: str, decode: str) -> DeploymentState:
    def process(name: str, role: Any, url: str) -> ProcessState:
        return ProcessState(
            name, role, url, "serving", Handle("1@0"), 0.0, metrics_port=int(url.rsplit(":", 1)[1])
        )

    return DeploymentState(
        name="chat",
        phase="serving",
        detail="",
        boot_id=state.boot_id(),
        supervisor_pid=1,
        supervisor_started_at=0.0,
        updated_at=time.time(),
        detached=True,
        endpoint=router,
        layout="1P1D",
        model="tiny",
        processes=(
            process("router", "router", router),
            process("decode-0", "decode", decode),
            process("prefill-0", "prefill", prefill),
        ),
    )


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["status", *arguments])
    return int(end.value.code or 0)


@pytest.mark.usefixtures("held")
def test_the_only_deployment_is_shown_without_naming_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    text = capsys.readouterr().out
    assert "tiny · 1P1D · serving" in text
    assert text.index("PREFILL") < text.index("DECODE")
    assert "\x1b" not in text


@pytest.mark.usefixtures("held")
def test_json_is_one_envelope_without_infinite_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("chat", "--once", "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    envelope = json.loads(lines[0])
    assert envelope["command"] == "status"
    assert envelope["data"]["verdict"] == "serving"
    assert [one["target"]["name"] for one in envelope["data"]["engines"]] == [
        "prefill-0",
        "decode-0",
    ]


@pytest.mark.usefixtures("held")
def test_untuned_kernels_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    state.logs_dir("chat").mkdir(exist_ok=True)
    (state.logs_dir("chat") / "decode-0.log").write_bytes(MOE)
    assert run("chat", "--once", "--json") == 0
    (note,) = json.loads(capsys.readouterr().out)["data"]["notes"]
    assert note.startswith("decode-0 runs untuned MoE kernels")


@pytest.mark.usefixtures("held")
def test_a_second_run_starts_with_the_samples_of_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--json") == 0
    assert run("--json") == 0
    first, second = (json.loads(line)["data"] for line in capsys.readouterr().out.splitlines())
    assert first["requests_per_s"] is None
    assert second["requests_per_s"] == 0.0
    assert second["watched_s"] > first["watched_s"] == 0.0


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize(
    ("text", "slo_s"),
    [
        (
            "schema: 1\nmodel: m\nengine: sim\nprefill: {engines: 1}\ndecode: {engines: 1}\n"
            "slo: {ttft: 5s, tpot: 30ms}\n",
            5.0,
        ),
        ("model: m\nslo: [\n", None),
        ("model: m\n", None),
    ],
)
def test_the_slo_of_the_deployment_is_shown(
    home: Path, text: str, slo_s: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "chat" / "desired.yaml").write_text(text, encoding="utf-8")
    assert run("--json") == 0
    assert json.loads(capsys.readouterr().out)["data"]["ttft_slo_s"] == slo_s


@pytest.mark.usefixtures("held")
def test_simulated_engines_are_shown_with_their_speed_and_without_gpus(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "schema: 1\nname: chat\nmodel: qwen3-8b\nengine: sim\nsim_speed: 10\n"
        "prefill: {engines: 1}\ndecode: {engines: 1}\n"
    )
    (home / "chat" / "desired.yaml").write_text(text, encoding="utf-8")
    assert run() == 0
    assert "simulated 10×" in capsys.readouterr().out


@pytest.mark.usefixtures("held")
def test_a_router_that_was_killed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    found = state.read_state("chat")
    assert found is not None
    router, *engines = found.processes
    killed = replace(router, phase="backoff", detail="was killed (SIGKILL); restarting 1 s later")
    state.write_state(replace(found, processes=(killed, *engines)))
    assert run() == 0
    assert "the router was killed (SIGKILL)" in capsys.readouterr().out


@pytest.mark.usefixtures("held")
def test_check_is_0_when_all_is_well_and_5_when_not(home: Path) -> None:
    assert run("--check") == 0
    found = state.read_state("chat")
    assert found is not None
    state.write_state(fleet_state(found.endpoint, "http://127.0.0.1:9", found.processes[1].url))
    assert run("--check") == 5


def test_a_dead_supervisor_is_reported(held: None, capsys: pytest.CaptureFixture[str]) -> None:
    (state.state_dir("chat") / "lock").unlink()
    assert run() == 0
    assert "its supervisor (pid 1) is gone" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 7, "No deployment is running"),
        (("gone",), 7, "No deployment 'gone' is running"),
        (("../x",), 2, "not a valid deployment name"),
        (("--router", "nonsense"), 2, "is not the URL of a router"),
        (("--router", "host-1:30000"), 2, "http://host-1:30000 is one"),
        (("--router", "http://127.0.0.1:9"), 5, "No SGLang router answers"),
        (("--router", "http://127.0.0.1:9", "chat"), 2, "either NAME or --router"),
        (("--watch", "--once"), 2, "--watch cannot be combined"),
        (("--interval", "0"), 2, "--interval"),
    ],
)
def test_a_status_that_cannot_be_shown_is_explained(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == code
    shown = capsys.readouterr()
    assert words in shown.err
    assert "hint:" in shown.err
    assert shown.out == ""


@pytest.mark.usefixtures("held")
def test_a_bare_status_shows_the_deployment_that_has_a_supervisor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = state.read_state("chat")
    assert found is not None
    state.make_state_dir("old")
    state.write_state(replace(found, name="old", phase="failed"))
    assert run("--json") == 0
    assert json.loads(capsys.readouterr().out)["data"]["name"] == "chat"
    lock = state.lock("old")
    assert lock is not None
    assert run() == 7
    os.close(lock)
    assert "2 deployments are running: chat, old." in capsys.readouterr().err


@pytest.mark.usefixtures("held")
def test_an_unknown_name_lists_those_that_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gone", "--json") == 7
    envelope = json.loads(capsys.readouterr().out)
    assert envelope["error"]["hint"] == "running: chat"


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize(
    ("left", "said"),
    [
        ("1:12:30", "job 42 ends in 1 h 12 min"),
        ("UNLIMITED", "job 42 has no time limit"),
        ("INVALID", "job 42 ends at an unknown time"),
    ],
)
def test_the_end_of_the_slurm_job_is_shown(
    home: Path,
    left: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    squeue = home / "squeue"
    squeue.write_text(f"#!/bin/sh\necho {left}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    state.write_launch(replace(some_launch(), launcher="slurm:42"))
    assert run("chat", "--once") == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_what_if_that_says_nothing_does_not_show_an_earlier_one(
    held: None, capsys: pytest.CaptureFixture[str]
) -> None:
    state.write_launch(some_launch())
    one = Alternative("2P1D", 2, 1, 0.9, 0.5, 0.4)
    layout = "1P1D"
    look = WhatIf(time.time() + 1.0, layout, 100, 1.0, 300.0, 0.4, 0.4, 0.4, (one,))
    keep_what_if("chat", look)
    assert run("chat", "--once") == 0
    assert "2P1D would give 90 %" in capsys.readouterr().out
    assert run("chat", "--what-if") == 0
    shown = capsys.readouterr().out
    assert "No what-if: Engines came or changed 0 s ago; requests count from 15 s after" in shown
    assert "2P1D" not in shown
