"""How far the offered rate travels through one plan: python -m tests.rate_journey [TRACE] [-v]

A function sees the rate if an argument is named like one (RATE), or is a record with a field named
like it (looked for three records deep), or a sequence that begins with such a record. A field that
holds a record is no rate, but an interval of what layouts carry, say. Only a function's first call
counts, and one that saw no rate in LOOKS calls is not looked at again. A move is a first call in
another file than the first call before it; a return is a move into a file left earlier. Work in
forked processes is not traced.
"""

import dataclasses
import io
import os
import re
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pdctl
from pdctl.cli import main as pdctl_main

PACKAGE = str(Path(pdctl.__file__).parent) + os.sep
TRACE = Path(__file__).parent / "data" / "traces" / "mooncake_conversation_head.jsonl"
PLAN = "qwen3-32b --gpus 2x8xH200 --tp 2 --ttft 5s --tpot 30ms --json --no-input"
RATE = re.compile(r"(^|_)(rate|rate_rps|offered|offered_rps)$")
DEPTH = 3
LOOKS = 200

Step = tuple[str, str]


class Journey:
    """The first calls, in order, of functions that see the rate."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._left: dict[CodeType, int] = {}  # looks at a function; none once it saw the rate

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """Take one event of sys.setprofile."""
        code = frame.f_code
        if event != "call":
            return
        left = self._left.get(code)
        if left is None:
            left = self._looks(code)
        if left and self._sees_rate(frame):
            self.steps.append((code.co_filename.removeprefix(PACKAGE), code.co_name))
            left = 1
        self._left[code] = max(0, left - 1)

    @staticmethod
    def _looks(code: CodeType) -> int:
        is_ours = code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<")
        return LOOKS if is_ours else 0

    def _sees_rate(self, frame: FrameType) -> bool:
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        values = ((name, frame.f_locals.get(name)) for name in names)
        return any(RATE.search(name) or self._carries(value, DEPTH) for name, value in values)

    def _carries(self, value: Any, depth: int) -> bool:
        """Tell if a record holds a field named like the rate, directly or in another record."""
        if isinstance(value, tuple | list):
            return any(self._carries(item, depth) for item in value[:1])
        if depth == 0 or isinstance(value, type) or not dataclasses.is_dataclass(value):
            return False
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        return any(
            (RATE.search(name) and not dataclasses.is_dataclass(held))
            or self._carries(held, depth - 1)
            for name, held in fields.items()
        )


def moves(files: list[str]) -> tuple[int, int]:
    """Count moves from file to file, and those into a file already left."""
    path = [name for i, name in enumerate(files) if i == 0 or name != files[i - 1]]
    return len(path) - 1, len(path) - len(set(path))


def travel(trace: Path) -> list[Step]:
    """Run one plan in this process and list the first calls that see the rate."""
    journey = Journey()
    with redirect_stdout(io.StringIO()), suppress(SystemExit):
        sys.setprofile(journey.profile)
        try:
            pdctl_main(["plan", *PLAN.split(), "--trace", str(trace)])
        finally:
            sys.setprofile(None)
    return journey.steps


def main() -> None:
    """Print the four figures, and with -v every first call."""
    arguments = [a for a in sys.argv[1:] if a != "-v"]
    steps = travel(Path(arguments[0]) if arguments else TRACE)
    files = [file for file, _ in steps]
    there, back = moves(files)
    for what, value in (
        ("files", len(set(files))),
        ("functions", len(steps)),
        ("moves", there),
        ("returns", back),
    ):
        print(f"{what:10} {value:4}")  # noqa: T201
    if "-v" in sys.argv:
        print(*(f"{file}: {name}" for file, name in steps), sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
