"""The meaning of each column of a trace, by its name and its values. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache

MAX_TOKENS = 10**9  # above this a length is a mistake, not a prompt

_UNIT_NAMES = {
    "ns": ("ns", "nsec", "nanos", "nanosecond", "nanoseconds"),
    "us": ("us", "µs", "μs", "usec", "micros", "microsecond", "microseconds"),
    "ms": ("ms", "msec", "millis", "millisecond", "milliseconds"),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "min": ("mins", "minute", "minutes"),
    "h": ("hrs", "hour", "hours"),
}
_UNIT_OF = {name: unit for unit, names in _UNIT_NAMES.items() for name in names}
_UNIT_SUFFIX = re.compile(rf"[ _.(\[-]+({'|'.join(_UNIT_OF)})[\])]?$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NAME = re.compile(r"[\w .\-/()\[\]]{1,60}$")
# 20261123181703, which as a number would be some time, and 20261123T181703Z
_COMPACT = re.compile(
    r"((?:19|20)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])T?([01]\d|2[0-3])([0-5]\d)([0-5]\d)(?!\d)"
)
_DATE = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d:\d\d)(:\d\d)?(\.\d+|,\d+)?"
    r"\s*(Z|UTC|[+-]\d\d:?\d\d)?",
    re.IGNORECASE,
)
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
_FAILURES = frozenset(
    ["abort", "aborted", "cancelled", "canceled", "failed", "failure", "error", "timeout"]
)
_BLOCK_SIZES = (512, 16, 64, 32, 128, 256, 1024, 1)

# names are compared in lower case, without spaces, underscores, dashes and a unit at the end;
# the first alias that a file has wins
_ALIASES = {
    "arrival": (
        "timestamp", "arrivaltime", "arrivaltimestamp", "arrivedat", "arrival", "arrivals",
        "requestreceivedts", "receivedat", "starttime", "requesttime", "requesttimestamp",
        "sendtime", "sentat", "createdat", "created", "datetime", "date", "time", "ts", "t",
    ),
    "prompt": (
        "inputlength", "inputlen", "inputtokens", "contexttokens", "requesttokens", "prompttokens",
        "promptlength", "promptlen", "numprefilltokens", "numprompttokens", "isl",
    ),
    "output": (
        "outputlength", "outputlen", "outputtokens", "generatedtokens", "responsetokens",
        "completiontokens", "numdecodetokens", "osl",
        "tokensize",  # Splitwise's simulator, beside prompt_size
    ),
    "blocks": ("hashids",),
    "session": ("sessionid", "conversationid", "session", "conversation"),
    "delay": ("delay", "thinktime", "turndelay"),
    "outcome": ("finishreason", "status", "success", "aborted", "failed", "wascancelled"),
}  # fmt: skip
_RATES = frozenset((
    "rate", "throughput", "per", "speed", "latency", "time", "ttft", "itl", "tpot", "cost", "price",
))  # fmt: skip
# names nobody has listed: one word of each set, none of the last
_WORDS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "arrival": (
        (
            "arrival", "arrived", "arrive", "timestamp", "ts", "received", "submitted", "submit",
            "enqueued", "sent", "send", "created", "start", "started", "begin", "began", "datetime",
            "date", "time", "epoch", "clock", "when",
        ),
        frozenset((
            "first", "end", "ended", "finish", "finished", "complete", "completed", "done",
            "elapsed", "latency", "duration", "e2e", "ttft", "tpot", "itl", "wait", "queue", "last",
            "response", "output", "decode", "total", "processing", "taken", "exec", "think",
            "delay", "out",
        )),
    ),
    "prompt": (
        (
            "prompt", "input", "context", "request", "prefill", "query", "question", "in",
        ),
        frozenset((
            "output", "out", "cached", "cache", "hash", "max", "id", "text", "chars", "ratio",
            "response",
        )) | _RATES,
    ),
    "output": (
        (
            "output", "completion", "response", "generated", "generation", "gen", "decode",
            "answer", "reply", "candidates", "out",
        ),
        frozenset((
            "input", "in", "prompt", "cached", "cache", "hash", "max", "id", "text", "chars",
            "ratio",
        )) | _RATES,
    ),
}  # fmt: skip
_LENGTH_WORDS = frozenset((
    "tokens", "token", "toks", "tok", "length", "lengths", "len", "size", "num", "count", "n",
))  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The name of each column that was recognised. None: the file has none.

    unit: of arrival, where its name says it. usual_unit: that of the published format.
    session, delay: of conversations whose later turns come `delay` after the answer before.
    outcome: how a request ended. unused: columns that mean nothing to pdctl.
    """

    arrival: str | None
    prompt: str
    output: str | None
    blocks: str | None
    unit: str | None
    usual_unit: str | None = None
    session: str | None = None
    delay: str | None = None
    outcome: str | None = None
    unused: tuple[str, ...] = ()
    is_log: bool = False  # a server's log, not a table


def find_columns(names: Sequence[str], *, needs_output: bool = True) -> Columns | None:
    """The columns of a trace among `names`; None without the lengths it needs."""
    found = {meaning: _first_named(names, aliases) for meaning, aliases in _ALIASES.items()}
    for meaning in _WORDS:
        if found[meaning] is None:
            found[meaning] = _first_alike(names, meaning, set(found.values()))
    prompt, output = found["prompt"], found["output"]
    if prompt is None or (output is None and needs_output):
        return None
    arrival, blocks, delay = found["arrival"], found["blocks"], found["delay"]
    session = found["session"] if delay else None
    outcome = found["outcome"]
    taken = {arrival, prompt, output, blocks, session, delay, outcome}
    return Columns(
        arrival=arrival,
        prompt=prompt,
        output=output,
        blocks=blocks,
        unit=unit_in_name(arrival or ""),
        usual_unit=_usual_unit(names),
        session=session,
        delay=delay if session else None,
        outcome=outcome,
        unused=tuple(name for name in names if name not in taken and name),
    )


def _first_named(names: Sequence[str], aliases: Sequence[str]) -> str | None:
    by_key = {_key(name): name for name in reversed(names)}
    return next((by_key[alias] for alias in aliases if alias in by_key), None)


def _first_alike(names: Sequence[str], meaning: str, taken: set[str | None]) -> str | None:
    """The first column whose words mean `meaning`: `req_arrival_clock`, `n_input_toks`."""
    telling, others = _WORDS[meaning]
    words = {name: _words(name) for name in names if name not in taken and _NAME.match(name)}
    fits = {
        name: found
        for name, found in words.items()
        if not found & others and (meaning == "arrival" or found & _LENGTH_WORDS)
    }
    return next((name for word in telling for name, found in fits.items() if word in found), None)


def _words(name: str) -> frozenset[str]:
    return frozenset(re.split(r"[^a-z0-9]+", _CAMEL.sub("_", name).lower()))


def _key(name: str) -> str:
    return re.sub(r"[ _-]", "", _UNIT_SUFFIX.sub("", _CAMEL.sub("_", name.strip()))).lower()


def unit_in_name(name: str) -> str | None:
    """The unit that a column's name ends in: `send_time_us`, `arrivalMs`, `time (ns)`."""
    suffix = _UNIT_SUFFIX.search(_CAMEL.sub("_", name.strip()))
    return _UNIT_OF[suffix.group(1).lower()] if suffix else None


def _usual_unit(names: Sequence[str]) -> str | None:
    """Bailian's and BurstGPT's traces count in seconds."""
    keys = {_key(name) for name in names}
    burst_gpt = keys >= {"sessionid", "requesttokens", "responsetokens"}
    return "s" if "chatid" in keys or burst_gpt else None


def with_dates(columns: Columns, raw: object) -> Columns:
    """`columns`, with "date" as the unit when the first timestamp is one."""
    text = str(raw).strip() if type(raw) in (str, int) else ""
    is_number = text.isdecimal() and columns.unit is not None  # as its name says
    return replace(columns, unit="date") if is_date(text) and not is_number else columns


def is_date(text: str) -> bool:
    """True if `text` is a date with a time, as 2023-11-16 18:17:03.979."""
    return _date(text) is not None


def _date(text: str) -> re.Match[str] | None:
    return _DATE.fullmatch(_COMPACT.sub(r"\1-\2-\3 \4:\5:\6", text.strip(), count=1))


def parse_date(raw: object) -> float:
    """Unix seconds of a date (of UTC where it names no zone). Raises ValueError with the reason."""
    match = _date(str(raw)) if type(raw) in (str, int) else None
    if match is None:
        raise ValueError(f"timestamp {_short(raw)} is not a date")
    return _date_s(match)


def parse_number(raw: object) -> float:
    """A timestamp in its own unit. Raises ValueError with the reason."""
    try:
        value = float(raw) if type(raw) in (str, int, float) else None  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        value = None
    if value is None or value - value != 0:
        why = "not a finite number"
        if isinstance(raw, str):
            why = "neither a finite number nor a date such as 2026-11-23 18:17:03"
        raise ValueError(f"timestamp {_short(raw)} is {why}")
    return value


def _date_s(match: re.Match[str]) -> float:
    year, month, day, minute, second, fraction, zone = match.groups()
    whole = _second(f"{year}-{month}-{day}", minute + (second or ":00"))
    return whole - _offset_s(zone) + float("0" + (fraction or ".0").replace(",", "."))


@lru_cache(maxsize=64)
def _second(day: str, clock: str) -> float:
    return datetime.fromisoformat(f"{day} {clock}").replace(tzinfo=timezone.utc).timestamp()


def _offset_s(zone: str | None) -> float:
    if not zone or zone.upper() in ("Z", "UTC"):
        return 0.0
    digits = zone[1:].replace(":", "")
    seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return seconds if zone[0] == "+" else -seconds


def is_failure(column: str, raw: object) -> bool:
    """True where an outcome says that the request was aborted or failed.

    raw: a word ("abort"), SGLang's finish reason, or a truth value of a column such as `success`.
    """
    if isinstance(raw, dict):
        raw = raw.get("type")
    text = str(raw).strip().lower()
    if text in ("true", "false"):
        return (text == "true") != (_key(column) == "success")
    return text in _FAILURES or (text.isdecimal() and 400 <= int(text[:4]) < 600)  # HTTP


def parse_length(raw: object, name: str, *, least: int = 0) -> int:
    """A length in tokens, `least` to a billion. Raises ValueError with the reason.

    raw: also 12,035, as tables write it, and AIPerf's {"value": 12035, "unit": "tokens"}.
    """
    raw = raw.get("value", raw) if isinstance(raw, dict) else raw
    if isinstance(raw, str) and _THOUSANDS.fullmatch(raw):
        raw = raw.replace(",", "")
    try:
        count = float(raw) if type(raw) in (str, int, float) else None  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        count = None
    if count is None or count % 1:  # nan for inf and nan
        raise ValueError(f"{name} {_short(raw)} is not a whole number")
    if not least <= count <= MAX_TOKENS:
        raise ValueError(f"{name} is {_short(raw)}")
    return int(count)


def _short(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 40 else text[:37] + "..."


def guess_block_tokens(isl: Sequence[int], num_blocks: Sequence[int]) -> int | None:
    """Tokens per prompt block, from how many ids the prompts have; None if no known size fits.

    A prompt of n tokens has ceil(n / size) ids.
    """
    pairs = [(n, blocks) for n, blocks in zip(isl, num_blocks, strict=True) if blocks and n]
    for size in _BLOCK_SIZES:
        if pairs and all(-(-n // size) == blocks for n, blocks in pairs):
            return size
    return None
