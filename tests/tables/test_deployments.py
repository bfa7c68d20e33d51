"""Screens of `up` and `ls`."""

import io
import json
import shlex
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from pdctl.engines.records import DeploymentState, Handle, ProcessState
from pdctl.tables.deployments import change_lines, curl, ls_view, ready_view, up_view

NOW = 1000.0
ROUTER = ProcessState(
    name="router",
    role="router",
    url="http://127.0.0.1:30000",
    phase="serving",
    handle=Handle("1@990.0"),
    started_at=990.0,
    ready_after_s=1.2,
)
PREFILL = ProcessState(
    name="prefill-0",
    role="prefill",
    url="http://127.0.0.1:20000",
    phase="loading",
    handle=Handle("2@986.0"),
    started_at=986.0,
    detail="weights",
    progress=0.52,
    gpus=(0,),
)
DECODE = replace(
    PREFILL,
    name="decode-0",
    role="decode",
    detail="CUDA graphs 23/36",
    progress=23 / 36,
    gpus=(1, 2),
)
STATE = DeploymentState(
    name="chat",
    phase="starting",
    detail="",
    boot_id="b",
    supervisor_pid=9,
    supervisor_started_at=980.0,
    updated_at=NOW,
    detached=False,
    endpoint="http://127.0.0.1:30000",
    layout="1P1D",
    model="it's [bold]",
    processes=(ROUTER, PREFILL, DECODE),
)


def text_of(view: RenderableType, width: int = 100, *, soft_wrap: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(view, soft_wrap=soft_wrap)
    return out.getvalue()


def test_each_process_shows_what_it_does_where_and_for_how_long() -> None:
    lines = text_of(up_view("headline", STATE, NOW)).splitlines()
    assert lines[0].strip() == "headline"
    assert lines[2].split() == ["router", "●", "up", ":30000", "1.2", "s"]
    assert lines[3].split() == [
        "prefill-0",
        "◐",
        "weights",
        "GPU",
        "0",
        "████████▍",
        "52",
        "%",
        "14",
        "s",
    ]
    assert lines[4].split()[:7] == ["decode-0", "◐", "CUDA", "graphs", "23/36", "GPU", "1,2"]


@pytest.mark.parametrize("width", [80, 200])
def test_it_fits_the_terminal(width: int) -> None:
    lines = text_of(up_view("headline", STATE, NOW), width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == 5


def test_before_the_first_state_the_screen_says_that_the_supervisor_starts() -> None:
    assert "supervisor" in text_of(up_view("headline", None, NOW))


def test_a_process_that_waits_for_its_restart_shows_the_reason() -> None:
    down = replace(DECODE, phase="backoff", detail="was killed (SIGKILL); restarting 10 s later")
    state = replace(STATE, phase="degraded", detail="decode-0 backoff", processes=(down,))
    text = text_of(up_view("headline", state, NOW))
    assert "was killed (SIGKILL)" in text
    assert "degraded: decode-0 backoff" in text


def test_once_it_serves_it_shows_the_endpoint_and_a_request_that_a_shell_can_run() -> None:
    state = replace(STATE, phase="serving", ready_after_s=48.0, first_request_ttft_s=0.081)
    text = text_of(ready_view(state, is_foreground=True, width=60), 60, soft_wrap=True)
    assert "Ready in 48 s (slowest 1.2 s). One request" in text
    assert "81 ms" in text
    assert "Ctrl-C stops it" in text
    command = text[text.index("curl") : text.index("Ctrl-C")]  # to be copied
    words = [word for word in shlex.split(command) if word.strip()]
    assert json.loads(words[-1])["model"] == "it's [bold]"


def test_lines_show_only_changes() -> None:
    later = replace(STATE, processes=(ROUTER, replace(PREFILL, progress=0.9), DECODE))
    assert change_lines(STATE, later) == ()
    graphs = replace(PREFILL, detail="CUDA graphs 1/36")
    more = replace(PREFILL, detail="CUDA graphs 2/36")
    one = replace(STATE, processes=(ROUTER, graphs, DECODE))
    two = replace(STATE, processes=(ROUTER, more, DECODE))
    assert change_lines(STATE, one) == ("prefill-0    CUDA graphs",)
    assert change_lines(one, two) == ()


def test_the_first_line_of_each_process_shows_its_phase() -> None:
    assert change_lines(None, STATE)[0] == "router       up after 1.2 s"


def test_the_list_of_deployments_names_state_and_endpoint() -> None:
    text = text_of(ls_view([replace(STATE, phase="serving")], NOW))
    assert text.splitlines()[1].split()[:3] == ["chat", "serving", "1P1D"]
    assert "14 s" in text


def test_an_empty_list_says_what_to_do() -> None:
    assert "pdctl up" in text_of(ls_view([], NOW))


def test_with_a_key_the_request_takes_it_from_the_environment() -> None:
    assert '"authorization: Bearer $PDCTL_API_KEY"' in curl(STATE, has_key=True)
    assert "PDCTL_API_KEY" not in curl(STATE)


def test_ls_has_two_lines_per_deployment_where_its_table_does_not_fit() -> None:
    from io import StringIO

    from rich.console import Console

    from pdctl.tables.deployments import ls_view
    from tests.engines.test_state import some_state

    def shown(width: int) -> list[str]:
        file = StringIO()
        Console(file=file, width=width).print(ls_view([some_state("chat")], 0.0, width))
        return [line.rstrip() for line in file.getvalue().splitlines()]

    assert shown(200)[0].startswith("NAME")
    narrow = shown(40)
    assert narrow[0].startswith("chat  ")
    assert all(len(line) <= 40 for line in narrow)
    assert not any("NAME" in line for line in narrow)
