"""The questions of the guided walk, the answers so far, and the `pdctl plan` they stand for."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pdctl.commands.options.plan_options import PlanOptions
from pdctl.commands.walk.prompt import Prompt
from pdctl.inspection.cluster import known_gpu_names, parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.model_files import absolute_model, bundled_names, cached_names
from pdctl.inspection.records import Cluster
from pdctl.paths import state_home
from pdctl.units import parse_latency_s, parse_rate_rps, parse_tokens
from pdctl.workload.time_units import TwoUnits, parse_time_unit
from pdctl.workload.traces import read_trace

HERE = "here"  # the answer that means the GPUs of this machine
FIRST_MODEL = "llama-3.1-8b"
FIRST_GPUS = "8xH200"
TRACE_FORMATS = (
    "Mooncake, AIPerf and Bailian JSONL, Azure and BurstGPT CSV, SGLang request logs, results of "
    "bench_serving; pdctl help traces has the details. Files here:"
)

Answers = Mapping[str, str]


@dataclass(frozen=True)
class Asked:
    """A prompt with the answer that Enter gives, if nobody answered it before."""

    prompt: Prompt
    usual: str = ""


def questions(answers: Answers, here: Cluster | None) -> Iterator[Asked]:
    """The questions in order. Each one is made when the ones before it are in `answers`.

    here: the GPUs of this machine, None without any.
    """
    yield _model()
    yield _gpus(here)
    yield _trace()
    if answers.get("trace"):
        if _has_two_units(answers):
            yield _time_unit()
    else:
        yield from _lengths(answers)
    yield _slo("ttft", "TTFT target, for example 1s")
    yield _slo("tpot", "TPOT target, for example 30ms")


def _model() -> Asked:
    prompt = Prompt(
        "model",
        "Model (directory, Hugging Face id or bundled name; ? lists)?",
        check=lambda text: read_llm(absolute_model(text)),
        choices=lambda: (*bundled_names(), *cached_names()),
        help="A directory with config.json, or one of these:",
        has_paths=True,
    )
    return Asked(prompt, FIRST_MODEL)


def _gpus(here: Cluster | None) -> Asked:
    if here is None:
        text, usual = "Plan for which GPUs (? lists)?", FIRST_GPUS
    else:
        text, usual = f"GPUs ({HERE}: {here.num_gpus} × {here.gpu.name}; ? lists)?", HERE
    prompt = Prompt(
        "gpus",
        text,
        check=parse_gpus if here is None else _here_or_described,
        choices=known_gpu_names,
        help="8xH100 is one node, 4x8xH200 are four, :rdma400 after it is their network. Kinds:",
    )
    return Asked(prompt, usual)


def _here_or_described(text: str) -> Cluster | None:
    return None if text == HERE else parse_gpus(text)


def _trace() -> Asked:
    prompt = Prompt(
        "trace",
        "Trace of your requests (file, Enter: none; ? lists)?",
        check=_check_trace,
        choices=lambda: sorted(str(p) for p in Path().glob("*") if _may_be_trace(p)),
        help=TRACE_FORMATS,
        has_paths=True,
        is_optional=True,
    )
    return Asked(prompt)


def _may_be_trace(path: Path) -> bool:
    return path.suffix in (".jsonl", ".csv", ".json", ".gz", ".log")


def _check_trace(text: str) -> None:
    with suppress(TwoUnits):  # the next question settles it
        read_trace(Path(text).expanduser())


def _has_two_units(answers: Answers) -> bool:
    try:
        read_trace(Path(answers["trace"]).expanduser())
    except TwoUnits:
        return True
    return False


def _time_unit() -> Asked:
    prompt = Prompt(
        "time_unit",
        "Its times make sense in two units. Which one is it (s, ms, us, ns)?",
        check=lambda text: parse_time_unit(text),
        choices=lambda: ("s", "ms", "us", "ns"),
    )
    return Asked(prompt)


def _lengths(answers: Answers) -> Iterator[Asked]:
    """Lengths and rate, where no trace has them; nothing more once the first is unknown."""
    yield _number("isl", "Mean prompt tokens (8000, 30K; Enter: unknown)?", parse_tokens)
    if answers.get("isl"):
        yield _number("osl", "Mean output tokens?", parse_tokens, usual="500")
        yield _number("rate", "Requests per second (12, 300/min; Enter: unknown)?", parse_rate_rps)


def _number(key: str, text: str, parse: Callable[..., float], *, usual: str = "") -> Asked:
    prompt = Prompt(
        key,
        text,
        check=lambda answer: parse(answer, flag=f"--{key}"),
        help="A number; K means thousand." if key != "rate" else "A number, or 300/min.",
        is_optional=not usual,
    )
    return Asked(prompt, usual)


def _slo(key: str, text: str) -> Asked:
    prompt = Prompt(
        key,
        f"{text} (Enter: none)?",
        check=lambda answer: parse_latency_s(answer, flag=f"--{key}"),
        help="A duration with its unit: 500ms, 2s.",
        is_optional=True,
    )
    return Asked(prompt)


# --- answers ---


def plan_options(answers: Answers) -> PlanOptions:
    """The answers as `pdctl plan` takes them."""
    given = {key: value for key, value in answers.items() if value}
    gpus = given.get("gpus", "")
    return PlanOptions(
        model=given.get("model", ""),
        gpus="" if gpus == HERE else gpus,
        trace=Path(given["trace"]).expanduser() if "trace" in given else None,
        time_unit=given.get("time_unit", ""),
        isl=parse_tokens(given["isl"], flag="--isl") if "isl" in given else None,
        osl=parse_tokens(given["osl"], flag="--osl") if "osl" in given else None,
        rate=parse_rate_rps(given["rate"], flag="--rate") if "rate" in given else None,
        ttft=given.get("ttft", ""),
        tpot=given.get("tpot", ""),
        no_input=True,
    )


def command_line(answers: Answers) -> str:
    """The one command that gives the same verdict."""
    words = ["pdctl", "plan", answers["model"]]
    for key in ("gpus", "trace", "time_unit", "isl", "osl", "rate", "ttft", "tpot"):
        value = answers.get(key, "")
        if value and value != HERE:
            words += [f"--{key.replace('_', '-')}", value]
    return shlex.join(words)


def asked_keys(answers: Answers, here: Cluster | None) -> tuple[str, ...]:
    """The questions that these answers lead to."""
    return tuple(question.prompt.key for question in questions(answers, here))


# --- kept for the next start ---


def _file() -> Path:
    return state_home() / "guided.json"


def kept_answers() -> dict[str, str]:
    """The answers of an earlier walk; {} where there are none or they cannot be read."""
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, str)}


def keep_answers(answers: Answers) -> None:
    """Write the answers so far; a full disk loses only the convenience."""
    with suppress(OSError):
        _file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = _file().with_suffix(".partial")
        partial.write_text(json.dumps(dict(answers)), encoding="utf-8")
        partial.replace(_file())
