"""The GPUs that a plan is for, and their price: from --gpus, --gpu-file, --on or this machine."""

import re
from pathlib import Path

from pdctl.commands.progress import say
from pdctl.console import ask, interactive
from pdctl.deployment.cluster_file import cluster_here
from pdctl.deployment.gpu_file import read_gpu_file
from pdctl.engines.launchers.registry import LOCAL
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.cluster import detect_cluster, machines_text, parse_gpus
from pdctl.inspection.records import Cluster

_PRICE = re.compile(r"@([^:]*)")


def asked_gpus(
    gpus: str, gpu_file: Path | None, on: str, *, no_input: bool
) -> tuple[Cluster, float | None]:
    """The GPUs to plan for, and the price of one in dollars an hour; None: not given.

    Raises InvalidInput for a bad value, EnvironmentProblem without GPUs to plan for.
    """
    gpus, price = _priced(gpus)
    if on != LOCAL:
        return _free_gpus(gpus, gpu_file, on), price
    return _described_or_here(gpus, gpu_file, no_input=no_input), price


def _priced(gpus: str) -> tuple[str, float | None]:
    """8xH100@2.50 without its price, and the price."""
    match = _PRICE.search(gpus)
    if match is None:
        return gpus, None
    text = match[1].strip().removeprefix("$")
    bare = _PRICE.sub("", gpus, count=1)
    hint = f"--gpus {bare}@2.50"
    try:
        price = float(text)
    except ValueError as problem:
        raise InvalidInput(
            f"--gpus: {match[1]!r} is not a price in dollars per GPU and hour.", hint=hint
        ) from problem
    if not 0 < price < 1e6:
        raise InvalidInput(f"--gpus: a price must be positive and finite, not {text}.", hint=hint)
    return bare, price


def _described_or_here(gpus: str, gpu_file: Path | None, *, no_input: bool) -> Cluster:
    described = read_gpu_file(gpu_file) if gpu_file else None
    text = gpus or (described.name if described else "")
    if text:
        return parse_gpus(text, described=described)
    try:
        return detect_cluster()
    except EnvironmentProblem:
        if not interactive(no_input=no_input):
            raise
    text = "No GPU here. Plan for which?"
    return parse_gpus(ask(text, default="8xH200", flag="--gpus", no_input=False, check=parse_gpus))


def _free_gpus(gpus: str, gpu_file: Path | None, on: str) -> Cluster:
    """The free GPUs of Slurm or Ray. Raises InvalidInput where GPUs are described too."""
    from pdctl.engines.lifecycle.free_gpus import find_free_gpus  # slow to import

    for flag, value in {"--gpus": gpus, "--gpu-file": gpu_file}.items():
        if value:
            raise InvalidInput(f"--on and {flag} cannot be combined.", hint=f"drop {flag}")
    found = find_free_gpus(on, cluster_here())
    say(f"  Planning for the free GPUs of {on}: {machines_text(found.cluster)}.")
    for note in found.notes:
        say(f"  {note}")
    return found.cluster
