"""Explain a failure from a log: a known signature, else the exception that the log shows."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from pdctl.engines import log_file
from pdctl.engines.failure_places import PLACES
from pdctl.engines.log_signatures import STARTS, Signature
from pdctl.engines.trouble_signatures import TROUBLES

_FRAME = re.compile(r'(?:\[[^\]]*\] )?\s*File ".+", line \d+')
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
# time, rank or name before a line, as loggers, Ray and docker compose print
_PREFIX = re.compile(r"^(?:\[[^\]\n]{1,80}\] |\([^)\n]{1,80}\) |[\w-]{1,40} +\| | *\| )+")
_EXCEPTION = re.compile(r"(?!(?:Base)?ExceptionGroup)(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?::(?: |$)|$)")
_RAISES = re.compile(r"(?:[A-Za-z_]\w*\.)*\w+(?:Error|Exception): ")
_FOLDED = re.compile(r"(panicked at [^\n]{1,200}:|terminate called after [^\n]{1,200})\n\s*")
_LOUD = re.compile(
    r"^\s*(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception|Exit|Interrupt)\b:?"
    r"|\b(?:ERROR|FATAL|CRITICAL)\b|\bfatal\b|^E\d{4} |\berror \d+ \["
    r"|[Aa]ssertion .*failed|Check failed|hit an exception|crashed with exit code|exit code:? -\d+"
    r"|terminate called|core dumped|initialization failed|[Ff]ailed to initialize|timed out"
    r"|^\S* ?(?:error|Error): |failed with (?:an )?exit ?code"
)
_MAX_FRAME_LINES = 2000
_SGLANG_FRAME = re.compile(r'File "[^"]*/sglang/srt/([\w/]+\.py)", line (\d+)')


@dataclass(frozen=True)
class LogExplanation:
    """The meaning of a log line. count: how many lines say it; only for troubles of a run."""

    id: str
    text: str
    fix: str
    line: str
    source: str = ""
    count: int = 1


def explain_failure(log_text: str) -> LogExplanation | None:
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


def explain_end(log_text: str) -> LogExplanation | None:
    """Why a process that ended did: a known failure, else the exception it raised, quoted.

    None: neither is in its log. The id of an exception of no known kind is "unknown"; its text
    says which part of SGLang raised it.
    """
    found = explain_failure(log_text)
    raised, frames = _raised(log_text)
    if found is not None:
        return replace(found, line=raised[:300]) if raised.startswith(found.line) else found
    if not raised:
        return None
    return _explained(_match(raised, TROUBLES) or _unknown(frames), raised)


def _unknown(frames: Sequence[str]) -> Signature:
    """An exception of no known kind. frames: file:line inside SGLang, the last one raised it."""
    text, fix = _place(frames)
    fix = f"{fix}; or search for that line among SGLang's issues"
    return Signature("unknown", "", text, fix, f"SGLang's {frames[-1]}" if frames else "")


def _place(frames: Sequence[str]) -> tuple[str, str]:
    """(text, fix) for the part of SGLang that failed: loading weights, else the innermost known."""
    loading = [frame for frame in frames if frame.startswith("model_loader/")]
    for frame in (*loading, *reversed(frames)):
        for prefix, text, fix in PLACES:
            if frame.startswith(prefix):
                return text, fix
    return "It failed in a way pdctl does not know.", "pdctl logs shows what came before that line"


def _raised(log_text: str) -> tuple[str, Sequence[str]]:
    """(exception, frames inside SGLang as file:line) of the first complete traceback."""
    lines = _said(log_text)
    starts = [i for i, line in enumerate(lines) if _TRACEBACK.search(line)]
    for start in starts:
        exception, frames = _exception_after(lines, start + 1)
        if exception:
            return exception, frames
    return (lines[starts[0]].strip() if starts else ""), ()


def loud_line(log_text: str) -> str:
    """The first line that reads like an error, which need not be why the process ended; or ""."""
    said = (line.strip() for line in _said(log_text))
    return next((s for s in said if _LOUD.search(s) and not log_file.is_harmless(s)), "")


def _said(log_text: str) -> list[str]:
    lines = (line.rsplit("\r", 1)[-1] for line in _unfolded(log_text).split("\n"))
    return [line for line in lines if line.strip()]


def _unfolded(log_text: str) -> str:
    """The text without colours, JSON tracebacks in lines, crashes on one line with their reason."""
    text = _FOLDED.sub(r"\1 ", log_file.without_colours(log_text))
    if r"(most recent call last):\n" in text:
        text = text.replace(r"\n", "\n").replace(r"\"", '"')
    return text


def _exception_after(lines: Sequence[str], start: int) -> tuple[str, Sequence[str]]:
    """The exception of the traceback whose frames begin at `start`, and its frames inside SGLang.

    The exception is on one line; "" if the traceback is cut off.
    """
    frames = 0
    inside: list[str] = []
    for i, raw in enumerate(lines[start:], start):
        line = _PREFIX.sub("", raw)
        if _FRAME.match(line) or (frames and line.startswith((" ", "\t"))):
            frames += 1
            if frame := _SGLANG_FRAME.search(line):
                inside.append(f"{frame[1]}:{frame[2]}")
            continue
        if _EXCEPTION.match(line):
            rest = lines[i + 1] if line.endswith(":") and i + 1 < len(lines) else ""
            return f"{line.strip()} {rest.strip()}".strip(), inside
        if _TRACEBACK.search(line) or frames > _MAX_FRAME_LINES:
            break
    return "", ()


def explain_troubles(log_text: str) -> tuple[LogExplanation, ...]:
    """The troubles of an engine or router that served: once per kind, with the first line.

    An exception that none of them explains comes last, as "exception".
    """
    found: dict[str, LogExplanation] = {}
    for line in _lines(log_text):
        signature = _match(line, TROUBLES)
        if signature is not None:
            before = found.get(signature.id)
            count, first = (before.count + 1, before.line) if before else (1, line)
            found[signature.id] = _explained(signature, first, count)
    raised, frames = _raised(log_text)
    if raised and _match(raised, TROUBLES) is None:
        _, fix = _place(frames)
        logged = Signature("exception", "", "It logged an exception and went on.", fix)
        found["exception"] = _explained(logged, raised, len(_TRACEBACK.findall(log_text)))
    return tuple(found.values())


def _lines(log_text: str) -> Iterator[str]:
    """Log text without the source lines of tracebacks, which quote messages that never occurred."""
    after_frame = False
    for raw in _unfolded(log_text).split("\n"):
        line = raw.rsplit("\r", 1)[-1]
        is_source = after_frame and line.startswith((" ", "\t"))
        after_frame = _FRAME.match(line) is not None
        if line.strip() and not (is_source or after_frame or _is_harmless(line)):
            yield line.strip()


def _is_harmless(line: str) -> bool:
    """True for a line of healthy starts. An exception is none, even if it speaks of a warning."""
    return log_file.is_harmless(line) and not _RAISES.match(_PREFIX.sub("", line))


def _match(line: str, signatures: Sequence[Signature]) -> Signature | None:
    said = _PREFIX.sub("", line)
    if not _any_of(tuple(signatures)).search(said):
        return None
    return next((s for s in signatures if re.search(s.pattern, said)), None)


@cache
def _any_of(signatures: tuple[Signature, ...]) -> "re.Pattern[str]":
    return re.compile("|".join(f"(?:{s.pattern})" for s in signatures))


def _explained(signature: Signature, line: str, count: int = 1) -> LogExplanation:
    printed_by = f"SGLang {signature.releases} print it" if signature.releases else ""
    source = "; ".join(filter(None, (signature.source, printed_by)))
    return LogExplanation(signature.id, signature.text, signature.fix, line[:300], source, count)
