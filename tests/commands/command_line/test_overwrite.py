"""Files that exist are not replaced without --force."""

from pathlib import Path

import pytest

from pdctl.cli import main
from pdctl.commands.command_line.overwrite import check_output
from pdctl.errors import InvalidInput

PLAN = ("plan", "qwen3-8b", "--gpus", "2xH100", "--isl", "500", "--osl", "50", "--rate", "1")
UP = ("up", "qwen3-8b", "--engine", "sim", "--prefill", "1", "--total", "2")


@pytest.mark.parametrize("command", [PLAN, UP], ids=["plan", "up"])
def test_an_edited_file_stays_unless_force_is_given(
    home: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path("pd.yaml")
    file.write_text("# edited\n")
    with pytest.raises(SystemExit) as refused:
        main([*command, "-o", "pd.yaml"])
    assert refused.value.code == 2
    assert "--force" in capsys.readouterr().err
    assert file.read_text() == "# edited\n"
    with pytest.raises(SystemExit) as written:
        main([*command, "-o", "pd.yaml", "--force"])
    assert written.value.code == 0
    assert "model: qwen3-8b" in file.read_text()


def test_a_new_file_needs_no_force(home: Path) -> None:
    check_output(Path("new.yaml"), force=False, no_input=True)
    check_output(None, force=False, no_input=True)
    Path("old.yaml").write_text("")
    with pytest.raises(InvalidInput) as refused:
        check_output(Path("old.yaml"), force=False, no_input=True)
    assert refused.value.code == "file_exists"
