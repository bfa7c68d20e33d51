"""Explain a failure from a log: a known signature, else the exception that the log shows."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from pdctl.engines import log_file
from pdctl.engines.log_signatures import RUNNING, STARTS, Signature

_FRAME = re.compile(r'(?:\[[^\]]*\] )?\s*File ".+", line \d+')
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
# time, rank or name before a line, as loggers, Ray and docker compose print
_PREFIX = re.compile(r"^(?:\[[^\]\n]{1,80}\] |\([^)\n]{1,80}\) |[\w-]{1,40} +\| )+")
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?::(?: |$)|$)")
_LOUD = re.compile(
    r"^\s*(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception|Exit|Interrupt)\b:?"
    r"|\b(?:ERROR|FATAL|CRITICAL)\b|\bfatal\b|^E\d{4} |\berror \d+ \["
    r"|[Aa]ssertion .*failed|Check failed|hit an exception|crashed with exit code|exit code:? -\d+"
    r"|terminate called|core dumped|initialization failed|[Ff]ailed to initialize|timed out"
    r"|^\S* ?(?:error|Error): "
)
_MAX_FRAME_LINES = 2000
_UNKNOWN = Signature(
    "unknown",
    "",
    "It failed in a way pdctl does not know.",
    "search for that line among the issues of SGLang; pdctl logs shows what came before it",
)


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


def explain_end(log_text: str) -> Explanation | None:
    """Why a process that ended did: a known failure, else the exception it raised, quoted.

    None: neither is in its log. The id of a quoted exception is "unknown".
    """
    raised = raised_line(log_text)
    return explain_failure(log_text) or (_explained(_UNKNOWN, raised) if raised else None)


def raised_line(log_text: str) -> str:
    """The exception at the end of the first traceback, on one line; "" without a traceback.

    Of chained tracebacks the first caused the others. A traceback that is cut off is quoted by its
    own first line.
    """
    lines = _said(log_text)
    starts = [i for i, line in enumerate(lines) if _TRACEBACK.search(line)]
    exceptions = (_exception_after(lines, start + 1) for start in starts)
    return next(filter(None, exceptions), lines[starts[0]].strip() if starts else "")


def loud_line(log_text: str) -> str:
    """The first line that reads like an error, which need not be why the process ended; or ""."""
    said = (line.strip() for line in _said(log_text))
    return next((s for s in said if _LOUD.search(s) and not log_file.is_harmless(s)), "")


def _said(log_text: str) -> list[str]:
    lines = (line.rsplit("\r", 1)[-1] for line in log_file.plain(log_text).split("\n"))
    return [line for line in lines if line.strip()]


def _exception_after(lines: Sequence[str], start: int) -> str:
    """The exception of the traceback whose frames begin at `start`, on one line; "" if cut off."""
    frames = 0
    for i, raw in enumerate(lines[start:], start):
        line = _PREFIX.sub("", raw)
        if _FRAME.match(line) or (frames and line.startswith((" ", "\t"))):
            frames += 1
            continue
        if _EXCEPTION.match(line):
            rest = lines[i + 1] if line.endswith(":") and i + 1 < len(lines) else ""
            return f"{line.strip()} {rest.strip()}".strip()
        if _TRACEBACK.search(line) or frames > _MAX_FRAME_LINES:
            return ""
    return ""


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
    for raw in log_file.plain(log_text).split("\n"):
        line = raw.rsplit("\r", 1)[-1]
        is_source = after_frame and line.startswith((" ", "\t"))
        after_frame = _FRAME.match(line) is not None
        if line.strip() and not (is_source or after_frame or log_file.is_harmless(line)):
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
