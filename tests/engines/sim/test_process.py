"""Simulated engines as separate processes, alone and behind the real router."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from pdctl.engines.log_file import StartupPhase, startup_phase
from tests.engines.sim.engines import free_port


@contextmanager
def process(log: Path, *argv: str) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as out:
        child = subprocess.Popen([sys.executable, "-m", *argv], stdout=out, stderr=out)
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def sim(port: int, *more: str) -> tuple[str, ...]:
    base = ("pdctl.engines.sim", "--model-path", "llama-3.1-8b", "--sim-speed", "20")
    return (*base, "--port", str(port), *more)


def status(url: str) -> int:
    try:
        with urlopen(url, timeout=5) as reply:
            return int(reply.status)
    except HTTPError as problem:
        problem.close()
        return problem.code
    except (URLError, OSError):
        return 0


def post(url: str, body: object) -> bytes:
    data = json.dumps(body).encode()
    ask = Request(url, data=data, headers={"content-type": "application/json"})
    with urlopen(ask, timeout=20) as reply:
        return bytes(reply.read())


def until(holds: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.02)


@pytest.mark.slow
def test_an_engine_loads_serves_drains_and_leaves_with_zero(tmp_path: Path) -> None:
    log, port = tmp_path / "log", free_port()
    url = f"http://127.0.0.1:{port}"
    with process(log, *sim(port, "--sim-start-s", "0.5", "--sim-speed", "1")) as child:
        until(lambda: status(f"{url}/ready") == 200, log)
        body = {"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 40}, "stream": True}
        ask = Request(f"{url}/generate", data=json.dumps(body).encode())
        with urlopen(ask, timeout=20) as reply:
            reply.readline()
            child.send_signal(signal.SIGTERM)
            rest = reply.read()
        assert rest.endswith(b"data: [DONE]\n\n"), "what was running is finished first"
        assert child.wait(10) == 0
    wanted = ["weights", "memory pool", "CUDA graphs", "HTTP", "warm-up", "started"]
    assert seen_phases(log.read_text())[1:] == wanted


def seen_phases(text: str) -> list[str]:
    phase: StartupPhase | None = None
    seen: list[str] = []
    for line in text.splitlines():
        phase = startup_phase(phase, line)
        if phase and phase.name not in seen:
            seen.append(phase.name)
    return seen


def test_a_signal_while_loading_ends_it_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with process(log, *sim(free_port(), "--sim-start-s", "30")) as child:
        until(lambda: "Load weight begin" in log.read_text(), log)
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == -signal.SIGTERM


def test_sigquit_is_death_as_of_a_failed_child(tmp_path: Path) -> None:
    log, port = tmp_path / "log", free_port()
    with process(log, *sim(port)) as child:
        until(lambda: status(f"http://127.0.0.1:{port}/ready") == 200, log)
        child.send_signal(signal.SIGQUIT)
        assert child.wait(10) == -signal.SIGKILL
    assert "Received sigquit" in log.read_text()


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--sim-gpus", "1xL40S", "--model-path", "deepseek-v3"), 2, "Not enough memory"),
        (("--sim-gpus", "8xNoSuch"), 2, "NoSuch"),
        (("--sim-speed", "0"), 2, "--sim-speed"),
        (("--disaggregation-mode", "both"), 2, "invalid choice"),
    ],
)
def test_an_engine_that_cannot_be_says_why_and_exits(
    tmp_path: Path, more: tuple[str, ...], code: int, said: str
) -> None:
    log = tmp_path / "log"
    with process(log, *sim(free_port(), *more)) as child:
        assert child.wait(20) == code
    text = log.read_text()
    assert said in text
    assert "Traceback" not in text


def test_a_taken_port_is_found_after_loading_as_in_sglang(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with process(log, *sim(taken.getsockname()[1])) as child:
            assert child.wait(20) == 1
    text = log.read_text()
    assert "address already in use" in text
    assert "Memory pool end" in text


@pytest.mark.slow
def test_the_real_router_takes_it_in_serves_through_it_and_lets_it_go(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(6)]
    router, metrics, prefill, bootstrap, first, second = ports
    url = f"http://127.0.0.1:{router}"
    logs = [tmp_path / name for name in ("router", "prefill", "first", "second")]
    flags = ("--host", "127.0.0.1", "--prometheus-host", "127.0.0.1", "--policy", "round_robin")
    more = ("--pd-disaggregation", "--port", str(router), "--prometheus-port", str(metrics))
    as_prefill = ("--disaggregation-mode", "prefill", "--disaggregation-bootstrap-port")
    as_decode = ("--disaggregation-mode", "decode")
    with (
        process(logs[0], "sglang_router.launch_router", *flags, *more),
        process(logs[1], *sim(prefill, *as_prefill, str(bootstrap))),
        process(logs[2], *sim(first, *as_decode)),
        process(logs[3], *sim(second, *as_decode)),
    ):
        until(lambda: status(f"{url}/health") == 200, logs[0])
        until(
            lambda: all(status(f"http://127.0.0.1:{p}/ready") == 200 for p in ports[2::2]), logs[1]
        )
        add(url, prefill, "prefill", bootstrap)
        add(url, first, "decode", None)
        until(lambda: status(f"{url}/readiness") == 200, logs[0])
        native = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 5}}
        answer = json.loads(post(f"{url}/generate", native))
        assert answer["meta_info"]["completion_tokens"] == 5
        chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
        stream = post(f"{url}/v1/chat/completions", {**chat, "stream": True})
        assert stream.endswith(b"data: [DONE]\n\n")
        assert stream.count(b'"content":') == 4
        # live: another decode engine comes, the first one goes
        until(lambda: status(f"http://127.0.0.1:{second}/ready") == 200, logs[3])
        add(url, second, "decode", None)
        until(lambda: len(workers(url)) == 3, logs[0])
        gone = next(w for w in workers(url) if str(w["url"]).endswith(str(first)))
        delete = Request(f"{url}/workers/{gone['id']}", method="DELETE")
        with urlopen(delete, timeout=5) as reply:
            assert reply.status == 202
        until(lambda: len(workers(url)) == 2, logs[0])
        again = json.loads(post(f"{url}/generate", native))
        assert again["output_ids"] == answer["output_ids"]
    assert "Traceback" not in logs[2].read_text()


def add(url: str, port: int, kind: str, bootstrap_port: int | None) -> None:
    body: dict[str, object] = {"url": f"http://127.0.0.1:{port}", "worker_type": kind}
    if bootstrap_port:
        body["bootstrap_port"] = bootstrap_port
    post(f"{url}/workers", body)


def workers(url: str) -> list[dict[str, object]]:
    with urlopen(f"{url}/workers", timeout=5) as reply:
        return list(json.loads(reply.read())["workers"])
