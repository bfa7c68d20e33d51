"""The API key reaches engines and router, and nobody else."""

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from pdctl.engines import state, with_key
from pdctl.engines.clients.api_key import (
    VARIABLE,
    api_key,
    authorization,
    read_key_file,
    use_key_file,
)
from pdctl.engines.launchers import command, local
from pdctl.engines.launchers.local import MARKER, handle_of
from pdctl.engines.lifecycle.deployment_key import use_key_of
from pdctl.engines.records import ProcessState
from pdctl.engines.sim.server import guard
from pdctl.errors import InvalidInput
from pdctl.paths import HOME_VARIABLE
from tests.engines.test_state import some_launch, some_state

KEY = "correct-horse-battery"


@pytest.fixture
def pid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A process with a key, of the run abc."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv(VARIABLE, "")
    env = {VARIABLE: KEY, MARKER: "abc"}
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=env)
    while b"python" not in Path(f"/proc/{child.pid}/cmdline").read_bytes():
        time.sleep(0.01)
    yield child.pid
    child.kill()
    child.wait()


def _write(pid: int, run_id: str, *, has_key: bool = True) -> None:
    state.make_state_dir("chat")
    engine = ProcessState(
        "prefill-0", "prefill", "http://127.0.0.1:1", "serving", handle_of(pid, 1.0), 1.0
    )
    state.write_launch(replace(some_launch(), run_id=run_id, has_key=has_key))
    state.write_state(replace(some_state(), processes=(engine,), run_id=run_id))


def test_the_key_its_engines_were_started_with_is_taken(pid: int) -> None:
    _write(pid, "abc")
    use_key_of("chat")
    assert os.environ[VARIABLE] == KEY


def test_any_process_of_the_deployment_on_this_machine_tells_it(pid: int) -> None:
    _write(1, "abc")  # the state names one that is elsewhere
    use_key_of("chat")
    assert os.environ[VARIABLE] == KEY


def test_a_key_that_is_set_stays(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(pid, "abc")
    monkeypatch.setenv(VARIABLE, "my-own-key")
    use_key_of("chat")
    assert os.environ[VARIABLE] == "my-own-key"


def test_a_process_of_another_run_is_not_asked(pid: int) -> None:
    _write(pid, "other")
    use_key_of("chat")
    assert os.environ[VARIABLE] == ""


def test_a_deployment_that_was_started_without_a_key_is_not_searched(pid: int) -> None:
    _write(pid, "abc", has_key=False)
    use_key_of("chat")
    assert os.environ[VARIABLE] == ""


def test_a_deployment_that_does_not_run_has_none(pid: int) -> None:
    use_key_of("chat")
    assert os.environ[VARIABLE] == ""


def _file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_key_comes_from_the_environment_or_there_is_none() -> None:
    assert api_key({}) is None
    assert api_key({VARIABLE: ""}) is None
    assert api_key({VARIABLE: KEY}) == KEY
    assert authorization({VARIABLE: KEY}) == {"Authorization": f"Bearer {KEY}"}
    assert authorization({}) == {}


@pytest.mark.parametrize("key", ["short", "with space in it", "new\nline: injected", "käse-12345"])
def test_what_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(InvalidInput) as problem:
        api_key({VARIABLE: key})
    assert key not in problem.value.message
    assert authorization({VARIABLE: key}) == {}


def test_a_key_file_sets_the_environment_and_white_space_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "another-key")
    use_key_file(_file(tmp_path, f"  {KEY}\n"))
    assert os.environ[VARIABLE] == KEY


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_key_file_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InvalidInput, match=r"is readable by others") as problem:
        read_key_file(_file(tmp_path, KEY, mode))
    assert problem.value.hint.startswith("chmod 600")


def test_a_key_file_that_is_none_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe", _file(tmp_path, "\n")):
        with pytest.raises(InvalidInput):
            read_key_file(path)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = _file(tmp_path, "")
    os.truncate(path, 1 << 32)
    with pytest.raises(InvalidInput):
        read_key_file(path)


def test_sglang_and_the_router_are_started_with_the_key_in_no_argument() -> None:
    for module in ("sglang.launch_server", "sglang_router.launch_router"):
        argv = command.with_key(("python", "-m", module, "--port", "1"), KEY)
        assert argv[1].endswith("with_key.py")
        assert argv[2:] == (module, "--port", "1")
        assert not any(KEY in argument for argument in argv)


def test_without_a_key_and_for_simulated_engines_the_command_stays_as_it_is() -> None:
    sglang = ("python", "-m", "sglang.launch_server")
    simulated = ("python", "-m", "pdctl.engines.sim", "--port", "1")
    assert command.with_key(sglang, None) == sglang
    assert command.with_key(simulated, KEY) == simulated
    assert command.with_key(("sleep", "1"), KEY) == ("sleep", "1")


def test_a_log_line_never_shows_the_key(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()
    with_key.hide(KEY)
    try:
        logging.getLogger("x").warning("server_args={'api_key': %r}", KEY)
        logging.getLogger("x").warning("100%s done", " %")
    finally:
        logging.setLogRecordFactory(before)
    assert caplog.messages == [f"server_args={{'api_key': '{with_key.HIDDEN}'}}", "100 % done"]


@pytest.mark.slow
def test_the_router_takes_the_key_from_its_environment_into_its_arguments() -> None:
    code = (
        "import sys; from pdctl.engines import with_key\n"
        "from sglang_router.router_args import RouterArgs\n"
        f"with_key._to_router({KEY!r})\n"
        "from sglang_router.launch_router import parse_router_args\n"
        "sys.stdout.write(parse_router_args(['--port', '1']).api_key)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == KEY


def test_a_module_runs_as_main_with_its_own_arguments(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text("import sys\nprint(__name__, sys.argv[1:])\n")
    command = [sys.executable, with_key.__file__, "shown", "--port", "1"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "__main__ ['--port', '1']"


def test_engines_and_router_do_not_use_a_proxy_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.delenv("NO_PROXY", raising=False)
    env = local._environment()
    assert env["no_proxy"] == env["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [
        ("/server_info", None, 401),
        ("/server_info", "Bearer wrong", 401),
        ("/server_info", f"Bearer {KEY}", 200),
        ("/health", None, 200),
        ("/metrics", None, 200),
    ],
)
def test_a_simulated_engine_asks_for_the_key_where_sglang_does(
    path: str, header: str | None, status: int
) -> None:
    async def ask() -> int:
        async def answer(request: web.Request) -> web.Response:
            return web.Response()

        application = web.Application(middlewares=guard(KEY))
        application.router.add_get(path, answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        headers = {"Authorization": header} if header else {}
        url = f"http://127.0.0.1:{port}{path}"
        async with ClientSession() as session, session.get(url, headers=headers) as got:
            found = got.status
        await runner.cleanup()
        return found

    assert guard(None) == ()
    assert asyncio.run(ask()) == status
