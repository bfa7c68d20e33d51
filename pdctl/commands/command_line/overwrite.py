"""Files that options name: nothing that somebody may have edited is replaced without a yes."""

from pathlib import Path

from pdctl.console import ask_yes, interactive
from pdctl.errors import EnvironmentProblem, InvalidInput


def check_output(path: Path | None, *, force: bool, no_input: bool) -> None:
    """Refuse to replace a file of the user's, before any work is done for it.

    Raises InvalidInput where the file exists and neither --force nor a person allows it.
    """
    if path is None or force or not path.exists():
        return
    question = f"{path} exists. Overwrite it?"
    if interactive(no_input=no_input) and ask_yes(question, default="n", flag="--force"):
        return
    raise InvalidInput(
        f"{path} exists and was left as it is.",
        hint=f"--force replaces it, or -o another file than {path.name}",
        code="file_exists",
    )


def write_output(path: Path, text: str, *, flag: str) -> None:
    """Write the file that an option names. Raises EnvironmentProblem if that fails."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise EnvironmentProblem(
            f"{path} cannot be written: {problem.strerror}.",
            hint=f"{flag} FILE in another folder",
            code="unwritable",
        ) from problem
