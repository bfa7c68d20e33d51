"""`measure` and `calibrate` from the command line: early refusals."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pdctl.cli import main
from pdctl.errors import ExitCode

LOAD = ("--isl", "100", "--osl", "10", "--rate", "1")


def refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], code: int = ExitCode.BAD_INPUT
) -> str:
    """Message and hint of a command that exits with `code`."""
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--json"])
    assert stopped.value.code == code
    error = json.loads(capsys.readouterr().out)["error"]
    return f"{error['message']} {error['hint']}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("llama-3.1-8b",), "No requests given"),
        (LOAD, "No model given"),
        (("llama-3.1-8b", "--isl", "9", "--osl", "9"), "No load given"),
        (("llama-3.1-8b", *LOAD, "--total", "1"), "too few to split"),
        (("llama-3.1-8b", *LOAD, "--repeats", "0"), "--repeats must be at least 1"),
        (("llama-3.1-8b", *LOAD, "--connections", "old"), "must be new or kept"),
        (("llama-3.1-8b", *LOAD, "--concurrency", "4"), "cannot be combined"),
        (("llama-3.1-8b", *LOAD, "--find-knee"), "--find-knee needs SLOs"),
        (("llama-3.1-8b", *LOAD, "--attainment", "1.5"), "--attainment"),
        (("llama-3.1-8b", *LOAD, "--ttft", "soon"), "not a duration"),
        (("llama-3.1-8b", "--isl", "9", "--osl", "9", "--rate", "-1"), "--rate must be positive"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(("measure", *arguments), capsys)


def test_a_target_that_is_not_sglang_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Other)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert "is not an SGLang engine" in refused(("measure", "--target", url, *LOAD), capsys)
        assert "is not an SGLang engine" in refused(("calibrate", "--url", url), capsys)
    finally:
        server.shutdown()
        server.server_close()


def test_an_address_where_nothing_listens_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(("measure", "--target", "http://127.0.0.1:9", *LOAD), capsys)
    assert "does not answer" in text
    assert "is not an HTTP address" in refused(
        ("measure", "--target", "ftp://127.0.0.1:9", *LOAD), capsys
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "No model given"),
        (("--url", "http://a", "--from", "http://b"), "cannot be combined"),
        (("llama-3.1-8b", "--budget", "long"), "not a duration"),
        (("llama-3.1-8b", "--gpus", "1xH200", "--from-logs", "missing.log"), "cannot be read"),
    ],
)
def test_an_impossible_calibration_is_refused(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(("calibrate", *arguments), capsys)


def test_an_existing_profile_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "mine.json"
    there.write_text("mine")
    text = refused(("calibrate", "llama-3.1-8b", "-o", str(there)), capsys)
    assert "already exists; it was not overwritten" in text
    assert there.read_text() == "mine"
