"""Completions in a shell: models, deployments, engines, kinds of GPU, topics, values.

Imported only while a shell asks for completions, so it adds nothing to the start of a command.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from pdctl.errors import PdctlError

Words = Callable[[Any], Iterable[str]]  # the context of the command line so far -> what is possible


def add_completions(verb: str, command: Any) -> None:
    """Let the parameters of a verb complete what they take; paths complete files by themselves."""
    for parameter in command.params:
        words = BY_VERB.get((verb, parameter.name)) or BY_NAME.get(parameter.name)
        if words is not None:
            parameter._custom_shell_complete = _completer(words)


def _completer(words: Words) -> Callable[[Any, Any, str], list[Any]]:
    def complete(context: Any, parameter: Any, incomplete: str) -> list[Any]:
        return matching(words, context, incomplete)

    return complete


def matching(words: Words, context: Any, incomplete: str) -> list[Any]:
    """The words that begin with what is typed; none where they cannot be found out."""
    try:
        return items(word for word in words(context) if word.startswith(incomplete))
    except (PdctlError, OSError):
        return []


def items(words: Iterable[str]) -> list[Any]:
    """Words as a shell takes them."""
    from typer import core

    item: Any = core.CompletionItem  # type: ignore[attr-defined]
    return [item(word) for word in words]


def models(context: Any) -> Iterable[str]:
    """Bundled models and those in the Hugging Face cache; without a match the shell adds files."""
    from pdctl.inspection.model_files import bundled_names, cached_names

    return (*bundled_names(), *cached_names())


def gpu_kinds(context: Any) -> Iterable[str]:
    """Kinds of GPU, alone and after the counts that people use."""
    from pdctl.inspection.cluster import known_gpu_names

    counts = ("", "1x", "2x", "4x", "8x", "2x8x", "4x8x")
    return (f"{count}{name}" for count in counts for name in known_gpu_names())


def running(context: Any) -> Iterable[str]:
    """Deployments with a supervisor; asking the kernel for a lock is all that this takes."""
    from pdctl.engines.state import is_supervised, list_names

    return (name for name in list_names() if is_supervised(name))


def logged(context: Any) -> Iterable[str]:
    """Deployments with log files, running or ended."""
    from pdctl.paths import state_home

    return sorted(folder.parent.name for folder in state_home().glob("*/logs"))


def processes(context: Any) -> Iterable[str]:
    """The processes with a log in the deployment that is named, else in all of them."""
    from pdctl.paths import state_home

    given = context.params.get("name") or context.params.get("target") or "*"
    pattern = given if re.fullmatch(r"[\w.-]+", given) else "*"
    logs = state_home().glob(f"{pattern}/logs/*.log")
    return sorted({log.stem for log in logs})


def logs_and_processes(context: Any) -> Iterable[str]:
    """The names that `logs` accepts as its argument."""
    return (*logged(context), *processes(context))


def topics(context: Any) -> Iterable[str]:
    """Topics of `help`, and verbs."""
    from pdctl.commands.command_line.verbs import TOPICS, VERBS

    return (*TOPICS, *VERBS)


def verbs(context: Any) -> Iterable[str]:
    """Verbs; each has a schema."""
    from pdctl.commands.command_line.verbs import VERBS

    return VERBS


def policies(context: Any) -> Iterable[str]:
    """The router's policies."""
    from pdctl.deployment.flags import POLICIES

    return POLICIES


def transfer_backends(context: Any) -> Iterable[str]:
    """The KV transfer backends."""
    from pdctl.deployment.flags import BACKENDS

    return ("auto", "nixl", *BACKENDS)


def attention_backends(context: Any) -> Iterable[str]:
    """Attention kernels that pdctl has figures for."""
    from pdctl.perf_model.hardware import ATTENTION_BACKENDS

    return sorted(ATTENTION_BACKENDS)


def render_targets(context: Any) -> Iterable[str]:
    """Programs for which `render` prints a text."""
    from pdctl.deployment.exports import EXPORTS, FIXED

    return (*EXPORTS, *FIXED)


def _values(*values: str) -> Words:
    return lambda context: values


BY_NAME: dict[str | None, Words] = {
    "model": models,
    "gpus": gpu_kinds,
    "engine": _values("sglang", "sim"),
    "policy": policies,
    "place": _values("spread", "pack", "domain"),
    "transfer_backend": transfer_backends,
    "time_unit": _values("s", "ms", "us", "ns"),
    "attention_backend": attention_backends,
    "kv_cache_dtype": _values("auto", "fp8_e4m3", "fp8_e5m2", "bf16"),
    "quantization": _values("fp8", "mxfp8", "nvfp4_online"),
    "mamba_radix_cache_strategy": _values("auto", "extra_buffer", "no_buffer"),
    "name": running,
    "names": running,
}
BY_VERB: dict[tuple[str, str | None], Words] = {
    ("up", "name"): _values(),
    ("explain", "by"): _values("ttft", "tpot"),
    ("explain", "name"): logged,
    ("logs", "name"): logged,
    ("logs", "target"): logs_and_processes,
    ("logs", "process"): processes,
    ("render", "target"): render_targets,
    ("render", "form"): _values("flag", "yaml"),
    ("measure", "connections"): _values("new", "kept"),
    ("help", "topic"): topics,
    ("schema", "verb"): verbs,
}
