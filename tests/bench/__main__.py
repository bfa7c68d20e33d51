"""Every figure that has a limit, as one table: python -m tests.bench [NAME ...]

NAME: help, trace, plan, up, status, supervisor, what_if, load. Close other programs first.
"""

import importlib
import os
import sys

from rich.console import Console
from rich.table import Table

NAMES = ("help", "trace", "plan", "up", "status", "supervisor", "what_if", "load")


def main() -> None:
    """Run the benches named, or all; exit 1 if a figure is beyond its limit."""
    names = sys.argv[1:] or NAMES
    del sys.argv[1:]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed pdctl has its byte code
    table = Table("what", "measured", "limit", "", box=None, header_style="dim")
    beyond = 0
    for name in names:
        sys.stderr.write(f"{name} …\n")
        for what, measured, limit, unit in importlib.import_module(
            f"tests.bench.bench_{name}"
        ).measure():
            beyond += measured > limit
            mark = "[red]beyond[/]" if measured > limit else ""
            table.add_row(what, f"{measured:.3g} {unit}", f"{limit:g} {unit}", mark)
    Console().print(table)
    sys.exit(beyond > 0)


if __name__ == "__main__":
    main()
