"""A rehearsal asks nothing outside this machine."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.cli import Cli

UNROUTED = ("unshare", "--map-root-user", "--net")
REHEARSAL = ("rehearse", "qwen3-8b", "--prefill", "1", "--total", "2", "--gpus", "2xH200")
SHORT = ("--duration", "5s", "--json")


@contextmanager
def recording_proxy() -> Iterator[tuple[str, list[bytes]]]:
    """The URL of a proxy that refuses everybody, and the first line of every request to it."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                seen.append(connection.recv(4096).split(b"\r\n")[0])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_no_process_of_a_rehearsal_uses_the_proxy_of_the_network(cli: Cli) -> None:
    with recording_proxy() as (url, seen):
        names = ("http_proxy", "https_proxy", "all_proxy")
        proxies = {name: url for one in names for name in (one, one.upper())}
        done = subprocess.run(
            [sys.executable, "-m", "pdctl", *REHEARSAL, *SHORT],
            env={**cli.environment, **proxies},
            cwd=cli.cwd,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert seen == []


def test_the_router_of_a_rehearsal_does_not_look_for_a_tokenizer_on_the_hub(cli: Cli) -> None:
    started = cli.run(
        *("up", "qwen3-8b", "--engine", "sim", "--prefill", "0", "--total", "1"),
        *("--name", "quiet", "-d"),
    )
    assert started.returncode == 0, started.stderr
    log = (cli.home / "quiet" / "logs" / "router.log").read_text()
    assert "huggingface.co" not in log


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_a_rehearsal_runs_where_there_is_no_network_at_all(cli: Cli) -> None:
    if subprocess.run([*UNROUTED, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel lets no ordinary user make a network namespace")
    command = " ".join([sys.executable, "-m", "pdctl", *REHEARSAL, *SHORT])
    done = subprocess.run(
        [*UNROUTED, "sh", "-c", f"ip link set lo up && exec {command}"],
        env={**cli.environment, "PATH": os.environ["PATH"]},
        cwd=cli.cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
