"""`pdctl help`: one source for the pages, the topics and the man pages."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pdctl.cli import main
from pdctl.commands.command_line.verbs import TOPICS, VERBS
from pdctl.commands.help import man_pages, page
from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import known_gpu_names
from pdctl.tables.status import COLUMNS

ROOT = Path(__file__).parents[2]


def test_every_topic_is_a_page_of_the_documentation_and_part_of_the_wheel() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for file in TOPICS.values():
        assert (ROOT / "docs" / file).is_file()
        assert f'"docs/{file}" = "pdctl/_docs/{file}"' in project


def test_a_misspelt_topic_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="Did you mean exit-codes"):
        page("exit-code")


def test_help_lists_the_topics(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(topic in shown for topic in TOPICS)


def test_a_topic_may_be_typed_as_two_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["help", "exit", "codes"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("# Exit codes")


def test_help_of_a_verb_is_its_help_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["help", "ls"])
    assert capsys.readouterr().out.startswith("Usage: pdctl ls")


def test_off_a_terminal_a_topic_is_printed_as_it_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["help", "glossary"])
    assert capsys.readouterr().out == page("glossary")


def test_there_is_a_man_page_for_every_verb_and_topic(tmp_path: Path) -> None:
    names = {path.name for path, _ in man_pages(tmp_path)}
    assert names == {
        "pdctl.1",
        *(f"pdctl-{verb}.1" for verb in VERBS),
        *(f"pdctl-{topic}.7" for topic in TOPICS),
    }


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("man"), reason="needs man")
def test_man_reads_the_pages_without_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["help", "--man", str(tmp_path)])
    capsys.readouterr()
    for file in sorted(tmp_path.rglob("pdctl*")):
        done = subprocess.run(
            ["man", "--warnings", "-l", str(file)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, file
        assert done.stderr == "", file


def test_the_glossary_of_columns_has_every_column_of_status() -> None:
    columns = page("status-columns").partition("\n## ")[0]
    listed = set(re.findall(r"^\| `([^`]+)` \|", columns, flags=re.MULTILINE))
    shown = {column.title for of_role in COLUMNS.values() for column in of_role}
    roles = {role.upper() for role in COLUMNS}
    assert listed == shown - roles - {""} | {"last minute"}


def test_the_page_of_gpus_names_every_kind_that_pdctl_knows() -> None:
    text = page("gpus")
    assert [name for name in known_gpu_names() if name not in text] == []
