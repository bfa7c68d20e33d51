"""Files that somebody may have edited are not overwritten without a yes."""

from pathlib import Path

from pdctl.console import ask_yes, interactive
from pdctl.errors import InvalidInput


def may_overwrite(path: Path) -> bool:
    """True if nothing is at `path`, or the person at the terminal agrees to replace it."""
    if not path.exists():
        return True
    return ask_yes(f"{path} exists. Overwrite it?", default="n", flag="--force")


def check_output(path: Path | None, *, force: bool, no_input: bool) -> None:
    """Refuse to replace a file of the user's, before any work is done for it.

    Raises InvalidInput where the file exists and neither --force nor a person allows it.
    """
    if path is None or force or not path.exists():
        return
    if interactive(no_input=no_input) and may_overwrite(path):
        return
    raise InvalidInput(
        f"{path} exists and was left as it is.",
        hint=f"--force replaces it, or -o another file than {path.name}",
        code="file_exists",
    )
