"""Reads the logs of engines and explains their slow requests."""

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path

from pdctl.commands.command_line.overwrite import write_output
from pdctl.commands.progress import say
from pdctl.console import command_width, err, show
from pdctl.deployment.flags import REQUEST_TIMES_FLAG
from pdctl.engines.lifecycle import logs as log_files_of
from pdctl.engines.request_times import RequestLog, log_lines, request_log
from pdctl.errors import InvalidInput, StateConflict
from pdctl.status.explain.explain import explain_requests, is_called, notes_on, requests_in
from pdctl.status.explain.join import Halves
from pdctl.status.explain.records import Explanation
from pdctl.tables.explain import explain_lines, explain_view, explanation_page
from pdctl.units import format_number_of, format_span

_ROTATED = re.compile(r"\.log[.-](\d{1,8})\b")  # d.log.2.gz, d.log-20261128
_DATE_DIGITS = 8


@dataclass(frozen=True)
class Wanted:
    """The options of `explain`. logs: files instead of a deployment's."""

    rid: str | None
    slowest: int
    window_s: float | None
    by_tpot: bool
    name: str | None
    logs: tuple[Path, ...]
    report: Path | None
    replay: bool
    as_json: bool


def rid_among(words: Sequence[str], *, given_logs: bool) -> str | None:
    """The id among the words of the command line. With --logs the others are files.

    Raises InvalidInput for a second one.
    """
    rids = [word for word in words if not (given_logs and Path(word).exists())]
    if len(rids) > 1:
        raise InvalidInput(
            f"{rids[1]!r} is a second request.", hint=f"pdctl explain {rids[0]}; files after --logs"
        )
    return rids[0] if rids else None


def paths_among(words: Sequence[str], given_logs: bool) -> list[Path]:
    """The files among the words of the command line, which follow the one of --logs."""
    return [Path(word) for word in words if given_logs and Path(word).exists()]


def is_by_tpot(by: str) -> bool:
    """The value of --by. Raises InvalidInput for another word."""
    if by not in ("ttft", "tpot"):
        raise InvalidInput(f"--by is ttft or tpot, not {by!r}.", hint="--by ttft")
    return by == "tpot"


def log_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The files, and every *.log in the folders, rotated ones too.

    Raises InvalidInput for one that is missing.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InvalidInput(f"There is no log {path}.", hint="--logs prefill.log decode.log")
        files += sorted(path.glob("*.log*")) if path.is_dir() else [path]
    if paths and not files:
        raise InvalidInput(f"{paths[0]} holds no *.log file.", hint="--logs prefill.log decode.log")
    return tuple(files)


def explain_and_print(wanted: Wanted) -> None:
    """Explain and print. Raises InvalidInput if the logs have nothing to explain."""
    if wanted.logs and wanted.name:
        raise InvalidInput("--logs excludes --name.", hint="pdctl explain --logs FILE")
    deployment = None if wanted.logs else log_files_of.deployment_of_logs(wanted.name)
    logs = _logs(wanted, deployment)
    pairs = requests_in(logs, wanted.window_s)
    where = f"the logs of {deployment}" if deployment else "these logs"
    _check_found(logs, pairs, wanted, where)
    found = explain_requests(
        pairs,
        hosts={} if deployment is None else log_files_of.hosts(deployment),
        slowest=wanted.slowest,
        rid=wanted.rid,
        by_tpot=wanted.by_tpot,
        notes=(*notes_on(logs, pairs), *_without_flag(logs)),
    )
    if wanted.replay:
        found = _replayed(found, pairs, deployment)
    if wanted.report is not None:
        write_output(wanted.report, explanation_page(found, where), flag="--report")
        err().print(f"  {wanted.report} written.", soft_wrap=True)
    is_one = wanted.rid is not None
    if not (wanted.as_json or is_one or sys.stdout.isatty()):
        for note in found.notes:  # the lines have no place for them
            say(note)
    show(
        "explain",
        asdict(found),
        as_json=wanted.as_json,
        render=lambda: explain_view(found, is_one=is_one, width=command_width()),
        lines=None if is_one else lambda: explain_lines(found),
    )


def _logs(wanted: Wanted, deployment: str | None) -> tuple[RequestLog, ...]:
    """The logs; of long ones the part around the request that is asked for.

    Each engine may have its own id for a request, but both halves have its room.
    """
    logs = _read(wanted, deployment, wanted.rid)
    if wanted.rid is None or not any(log.num_dropped for log in logs):
        return logs
    named = (r for log in logs for r in log.records if r.rid.startswith(wanted.rid))
    room = next((record.room for record in named if record.room is not None), None)
    return logs if room is None else _read(wanted, deployment, str(room))


def _read(wanted: Wanted, deployment: str | None, name: str | None) -> tuple[RequestLog, ...]:
    if deployment is not None:
        found = log_files_of.lines_by_engine(deployment)
        return tuple(request_log(lines, process, rid=name) for process, lines in found)
    return tuple(
        request_log(chain.from_iterable(map(log_lines, parts)), engine, rid=name)
        for engine, parts in _by_engine(wanted.logs).items()
    )


def _by_engine(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """The parts of each engine's log, the oldest first: d.log.2.gz, d.log.1, d.log."""
    places: dict[Path, list[Path]] = {}
    for path in sorted(paths, key=_age):
        places.setdefault(path.parent / path.name.partition(".log")[0], []).append(path)
    names = [place.name for place in places]
    return {
        place.name if names.count(place.name) == 1 else str(place): places[place]
        for place in dict.fromkeys(p.parent / p.name.partition(".log")[0] for p in paths)
    }


def _age(path: Path) -> tuple[bool, int]:
    """The place of a part in time: rotation counts up into the past, dates towards today."""
    number = _ROTATED.search(path.name)
    if number is None:
        return True, 0
    return False, int(number[1]) * (1 if len(number[1]) == _DATE_DIGITS else -1)


def _check_found(
    logs: Sequence[RequestLog], pairs: Sequence[Halves], wanted: Wanted, where: str
) -> None:
    """Raise an error that says what the logs hold instead of what was asked for."""
    if not any(log.records for log in logs):
        if damaged := sum(log.num_unreadable for log in logs):
            lines = format_number_of(damaged, "line", "are")
            raise InvalidInput(
                f"No request can be read in {where}: {lines} cut off or damaged.",
                hint="whole lines, as the engines wrote them",
            )
        if any(log.is_enabled for log in logs):
            raise StateConflict(
                f"No request has ended in {where}.", hint="pdctl status shows what runs"
            )
        raise InvalidInput(
            f"No engine in {where} logs the times of its requests.",
            hint=f"start engines with {REQUEST_TIMES_FLAG}; pdctl up does, unless told otherwise",
            code="no_request_times",
        )
    rid = wanted.rid
    if rid is None and not pairs and wanted.window_s is not None:
        raise StateConflict(
            f"No request began in the last {format_span(wanted.window_s)} of {where}.",
            hint="a longer --window",
        )
    if rid is None or any(is_called(one, rid) for one in pairs):
        return
    some = ", ".join(one.any.rid for one in pairs[-3:])
    span = (
        " to ".join(f"{_at(one.first.entry_s)}" for one in (pairs[0], pairs[-1])) if pairs else ""
    )
    held = format_number_of(len(pairs), "request")
    raise InvalidInput(
        f"No request {rid!r} has ended in {where}: they hold {held}"
        f"{f' from {span}' if span else ''}.",
        hint=f"an id as in the answer's JSON, like {some}" if some else "a longer --window",
        code="unknown_request",
        details=tuple(f"{log.name} | {line}" for log in logs for line in log.mentions),
    )


def _at(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s):%d %b %H:%M:%S}"


def _without_flag(logs: Sequence[RequestLog]) -> tuple[str, ...]:
    """A sentence if some engines log no times, while others do."""
    silent = [log.name for log in logs if log.is_enabled is False]
    if not silent:
        return ()
    return (f"Started without {REQUEST_TIMES_FLAG}: {', '.join(silent)}.",)


def _replayed(found: Explanation, pairs: Sequence[Halves], deployment: str | None) -> Explanation:
    if deployment is None:
        missing = (
            "Other splits are not simulated: the model and GPUs behind these logs are unknown."
        )
        return replace(found, replay_missing=missing)
    from pdctl.measurement.replay import replay_of

    answer = replay_of(deployment, pairs, [one.rid for one in found.requests])
    if isinstance(answer, str):
        return replace(found, replay_missing=f"Other splits are not simulated: {answer}")
    return replace(found, replay=answer)
