"""Why a start failed, and what troubled a run, told from its log. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from pdctl.engines import log_tail
from pdctl.engines.doctor.signatures import RUNNING, STARTS, Signature

_FRAME = re.compile(r'(?:\[[^\]]*\] )?\s*File ".+", line \d+')


@dataclass(frozen=True)
class Explanation:
    """What a line of a log means. count: how many lines say it; only for troubles of a run."""

    id: str
    text: str
    fix: str
    line: str
    source: str = ""
    count: int = 1


def explain_failure(log_text: str) -> Explanation | None:
    """The cause of a failed start: its earliest telling line, explained; None: nothing known.

    Later lines are consequences: an engine whose scheduler ran out of memory goes on to report
    lost children, refused connections and a failed warm-up. Warnings that healthy starts print
    as well are held back.

    Args:
        log_text: of one start; colour codes and progress bars may be in it.
    """
    for line in _lines(log_text):
        if found := _match(line, STARTS):
            return _explained(found, line)
    return None


def explain_troubles(log_text: str) -> tuple[Explanation, ...]:
    """What went wrong while an engine or the router served, once per kind, with its first line."""
    found: dict[str, Explanation] = {}
    for line in _lines(log_text):
        signature = _match(line, RUNNING)
        if signature is not None:
            before = found.get(signature.id)
            count, first = (before.count + 1, before.line) if before else (1, line)
            found[signature.id] = _explained(signature, first, count)
    return tuple(found.values())


def _lines(log_text: str) -> Iterator[str]:
    """What was said: no source lines of tracebacks, whose text need not have come true."""
    after_frame = False
    for raw in log_tail.plain(log_text).split("\n"):
        line = raw.rsplit("\r", 1)[-1]
        is_source = after_frame and line.startswith((" ", "\t"))
        after_frame = _FRAME.match(line) is not None
        if line.strip() and not (is_source or after_frame or log_tail.is_harmless(line)):
            yield line.strip()


def _match(line: str, signatures: Sequence[Signature]) -> Signature | None:
    if not _any_of(tuple(signatures)).search(line):
        return None
    return next((s for s in signatures if re.search(s.pattern, line)), None)


@cache
def _any_of(signatures: tuple[Signature, ...]) -> "re.Pattern[str]":
    return re.compile("|".join(f"(?:{s.pattern})" for s in signatures))


def _explained(signature: Signature, line: str, count: int = 1) -> Explanation:
    return Explanation(
        signature.id, signature.text, signature.fix, line[:300], signature.source, count
    )
