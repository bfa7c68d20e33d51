"""The live screen: what shows at any height, and what keys do."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from pdctl.inspection.records import GpuLoad
from pdctl.status.records import DeploymentStatus
from pdctl.tables.status_live import ORDERS, Frame, View, live_frame, pressed
from tests.status.fleets import BUSY, DECODE, PREFILL, engine

START = View()
WIDTH = 100


def fleet(num_prefill: int, num_decode: int) -> DeploymentStatus:
    """Engines of which decode-1 waits most, and decode-2 does not answer."""
    prefill = [engine(f"prefill-{i}", 20000 + i, PREFILL) for i in range(num_prefill)]
    decode = [engine(f"decode-{i}", 21000 + i, DECODE) for i in range(num_decode)]
    decode[1] = replace(decode[1], sample=replace(DECODE, prealloc=90))
    decode[2] = replace(decode[2], health="unreachable", problem="connection refused")
    return replace(BUSY, engines=(*prefill, *decode), layout=f"{num_prefill}P{num_decode}D")


def lines_of(frame: Frame, width: int = WIDTH) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, no_color=True).print(frame.lines)
    return file.getvalue().splitlines()


def frame_of(status: DeploymentStatus, height: int, view: View = START) -> Frame:
    return live_frame(status, view, WIDTH, height)


@pytest.mark.parametrize("height", [16, 20, 24, 30, 60])
@pytest.mark.parametrize("layout", [(2, 6), (8, 24), (16, 48)], ids=str)
def test_header_totals_and_advice_show_at_every_height(
    height: int, layout: tuple[int, int]
) -> None:
    lines = lines_of(frame_of(fleet(*layout), height))
    assert len(lines) <= height
    assert "llama-3.1-8b" in lines[0]
    totals = [line.split()[0] for line in lines if line.split() and line.split()[0].isdecimal()]
    assert {str(num) for num in layout} <= set(totals)
    assert any("Prefill is the bottleneck" in line for line in lines)
    assert "q" in lines[-1]


def test_where_engines_do_not_all_fit_the_worst_come_first_and_the_rest_is_one_line() -> None:
    lines = lines_of(frame_of(fleet(8, 24), 24))
    decode = next(i for i, line in enumerate(lines) if line.split()[:1] == ["DECODE"])
    assert [line.split()[0] for line in lines[decode + 1 : decode + 3]] == ["decode-2", "decode-1"]
    assert any(line.endswith("more, all well") for line in lines)


def test_an_engine_in_trouble_that_has_no_row_is_counted() -> None:
    troubled = fleet(2, 40)
    engines = tuple(replace(one, health="failed") for one in troubled.engines)
    text = "\n".join(lines_of(frame_of(replace(troubled, engines=engines), 20)))
    assert "of them in trouble" in text


def test_engines_that_all_fit_stay_in_the_order_of_their_names() -> None:
    frame = frame_of(fleet(2, 6), 40)
    assert frame.names == ("prefill-0", "prefill-1", *(f"decode-{i}" for i in range(6)))
    assert not any(" more, " in line for line in lines_of(frame))


def test_the_list_scrolls_until_the_chosen_engine_shows() -> None:
    frame = frame_of(fleet(8, 24), 24)
    view = replace(frame.view, chosen=frame.names[-1])
    assert any(
        line.startswith(f"› {frame.names[-1]}")
        for line in lines_of(frame_of(fleet(8, 24), 24, view))
    )


def test_arrows_move_the_cursor_and_stop_at_the_ends() -> None:
    frame = frame_of(fleet(2, 6), 40)
    first = pressed(frame, "down")
    assert first.chosen == "prefill-0"
    frame = replace(frame, view=first)
    assert pressed(frame, "up").chosen == "prefill-0"
    assert pressed(frame, "j").chosen == "prefill-1"


def test_s_goes_through_the_orders() -> None:
    status, view, orders = fleet(8, 24), View(), []
    for _ in ORDERS:
        frame = frame_of(status, 24, view)
        orders.append(frame.view.order)
        view = pressed(frame, "s")
    assert orders == list(ORDERS)
    by_queue = frame_of(status, 24, View(order="longest queue first"))
    assert by_queue.names[8] == "decode-1"


def test_enter_shows_one_engine_with_the_end_of_its_log_and_escape_leaves_it() -> None:
    status = fleet(2, 6)
    view = pressed(replace(frame_of(status, 40), view=View(chosen="decode-2")), "enter")
    frame = live_frame(status, view, WIDTH, 24, [f"line {i}" for i in range(100)])
    text = lines_of(frame)
    assert len(text) <= 24
    assert any("decode-2" in line for line in text)
    assert "  line 99" in text
    assert not any("prefill-0" in line for line in text)
    assert pressed(frame, "escape").shows_engine is False


def test_p_pauses_and_the_footer_says_so() -> None:
    view = pressed(frame_of(fleet(2, 6), 40), "p")
    assert "paused" in lines_of(frame_of(fleet(2, 6), 40, view))[-1]


def test_a_question_mark_names_every_key() -> None:
    view = pressed(frame_of(fleet(2, 6), 40), "?")
    text = "\n".join(lines_of(frame_of(fleet(2, 6), 40, view)))
    assert all(word in text for word in ("Enter", "pause", "sort", "quit"))


@pytest.mark.parametrize("height", [1, 2, 5, 8, 12])
def test_a_tiny_terminal_gets_no_more_lines_than_it_has(height: int) -> None:
    assert len(lines_of(frame_of(fleet(2, 6), height))) <= height


@pytest.mark.parametrize(("speed", "words"), [(10.0, "simulated 10×"), (1.0, "simulated")])
def test_simulated_engines_say_so_and_how_fast_they_are(speed: float, words: str) -> None:
    assert f"· {words} ·" in lines_of(frame_of(replace(BUSY, sim_speed=speed), 40))[0]


def test_what_the_gpus_do_shows_beside_the_queues() -> None:
    load = GpuLoad(0.97, 1224.0, 71 << 30, 80 << 30)
    engines = (replace(BUSY.engines[0], gpu=load), *BUSY.engines[1:])
    text = lines_of(live_frame(replace(BUSY, engines=engines), START, 160, 40), 160)
    row = next(line for line in text if "prefill-0" in line)
    assert all(word in row for word in ("97 %", "1,224 W", "89 %"))


def test_a_row_of_an_engine_comes_before_the_count_of_hidden_columns() -> None:
    for height in range(10, 40):
        text = "\n".join(lines_of(live_frame(BUSY, View(), 60, height), 60))
        assert not ("more columns" in text and "all well" in text), height
