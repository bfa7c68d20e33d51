"""Engines larger than a node: one process of SGLang on each of several nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pdctl.deployment.placement.places import Place
from pdctl.deployment.records import Follower, ProcessSpec


def with_followers(
    spec: ProcessSpec, others: Sequence[Place], addresses: Mapping[str, str]
) -> ProcessSpec:
    """An engine as its rank 0, with the processes of the other ranks; itself where there are none.

    All ranks have one command but for --node-rank and --host. Only rank 0 gets requests and health
    checks: the others answer /health whatever happens. Roles cannot be changed in place.

    Source: srt/server_args.py of SGLang 0.5.23 (--nnodes, --node-rank, --dist-init-addr).
    """
    if not others:
        return spec
    num = len(others) + 1
    followers = tuple(
        Follower(
            node=place.node,
            argv=_rank(_with_host(spec.argv, addresses[place.node]), num, rank),
            env=_env_there(spec, place, addresses[place.node]),
            gpus=place.gpus,
            log=spec.log.with_name(f"{spec.name}.{rank}.log"),
        )
        for rank, place in enumerate(others, start=1)
    )
    argv = _rank(spec.argv, num, 0)
    return replace(spec, argv=argv, followers=followers, can_switch_role=False)


def _rank(argv: tuple[str, ...], num: int, rank: int) -> tuple[str, ...]:
    return (*argv, "--nnodes", str(num), "--node-rank", str(rank))


def _with_host(argv: tuple[str, ...], address: str) -> tuple[str, ...]:
    at = argv.index("--host") + 1
    return (*argv[:at], address, *argv[at + 1 :])


def _env_there(spec: ProcessSpec, place: Place, address: str) -> Mapping[str, str]:
    env = {name: address if value == spec.host else value for name, value in spec.env.items()}
    if spec.needs_gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, place.gpus))
    return env
