"""The network cards that an engine uses: for each GPU the ones nearest to it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pdctl.deployment.records import ProcessSpec
from pdctl.deployment.sglang_flags import options
from pdctl.inspection.records import Gpu, RdmaPort

IB_DEVICE = "--disaggregation-ib-device"


def nearest_ports(gpu: Gpu, ports: Sequence[RdmaPort]) -> tuple[RdmaPort, ...]:
    """The active ports of the fastest kind with the shortest way to a GPU; none if it is unknown.

    The shortest way shares most bridges of the PCI tree; without a shared one, the NUMA node.
    Ignores: slower ports, which mostly serve storage or management.
    """
    active = [port for port in ports if port.state == "ACTIVE" and port.bytes_per_s]
    rate = max((port.bytes_per_s or 0.0 for port in active), default=0.0)
    fastest = [port for port in active if port.bytes_per_s == rate]
    shared = [_num_shared(gpu.pci_path, port.pci_path) for port in fastest]
    if most := max(shared, default=0):
        return tuple(port for port, num in zip(fastest, shared, strict=True) if num == most)
    if gpu.numa_node is None:
        return ()
    return tuple(port for port in fastest if port.numa_node == gpu.numa_node)


def _num_shared(one: str, other: str) -> int:
    """The bridges, from the root on, that two paths like "pci0000:15/0000:15:01.0" share."""
    pairs = zip(one.split("/"), other.split("/"), strict=False) if one and other else ()
    num = 0
    for mine, theirs in pairs:
        if mine != theirs:
            break
        num += 1
    return num


def with_nics(
    spec: ProcessSpec,
    gpus: Mapping[str, Sequence[Gpu]],
    ports: Mapping[str, Sequence[RdmaPort]],
) -> ProcessSpec:
    """An engine that uses the nearest cards of its GPUs, on each of its nodes by itself.

    Mooncake gets a map from GPU to cards; NCCL, NVSHMEM and UCX get the cards of all its GPUs.
    What the user set stays. Nothing changes on one machine, where KV and collectives need no
    network, nor on a node where the way to some GPU is unknown.

    Args:
        gpus: those of every node.
        ports: the RDMA ports of every node.

    Source: NCCL (NCCL_IB_HCA), NVSHMEM (NVSHMEM_HCA_LIST) and UCX (UCX_NET_DEVICES) documentation;
        disaggregation of SGLang 0.5.23 (keys of the map are the GPUs that the process sees).
    """
    if not spec.needs_gpus or len(gpus) < 2:
        return spec

    def chosen(node: str, own: Sequence[int]) -> list[tuple[RdmaPort, ...]]:
        known = {gpu.index: gpu for gpu in gpus.get(node, ())}
        return [nearest_ports(known[i], ports.get(node, ())) if i in known else () for i in own]

    followers = tuple(
        replace(f, argv=argv, env=env)
        for f in spec.followers
        for argv, env in [_with_cards(f.argv, f.env, chosen(f.node, f.gpus))]
    )
    argv, env = _with_cards(spec.argv, spec.env, chosen(spec.node, spec.gpus))
    return replace(spec, argv=argv, env=env, followers=followers)


def _with_cards(
    argv: tuple[str, ...], env: Mapping[str, str], cards: Sequence[tuple[RdmaPort, ...]]
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    if not cards or not all(cards):
        return argv, env
    every = dict.fromkeys(f"{port.device}:{port.port}" for own in cards for port in own)
    listed = ",".join(every)
    usual = {
        "NCCL_IB_HCA": f"={listed}",
        "NVSHMEM_HCA_LIST": listed,
        "UCX_NET_DEVICES": listed,
    }
    given = options(argv[3:])
    if given.get("--disaggregation-transfer-backend") == "mooncake" and IB_DEVICE not in given:
        devices = {str(i): ",".join(port.device for port in own) for i, own in enumerate(cards)}
        argv = (*argv, IB_DEVICE, json.dumps(devices))
    return argv, {**usual, **env}


def only_cards(ports: Sequence[RdmaPort], cards: Sequence[str]) -> tuple[RdmaPort, ...]:
    """The ports of these cards; all where no card is named."""
    return tuple(port for port in ports if not cards or port.device in cards)


def named_cards(argv: Sequence[str]) -> tuple[str, ...]:
    """The RDMA cards that an engine's command names; none where a file names them.

    Source: disaggregation of SGLang 0.5.23 (a list, or a map from GPU to lists).
    """
    text = options(argv[3:]).get(IB_DEVICE, "")
    if text.startswith("{"):
        try:
            text = ",".join(str(cards) for cards in json.loads(text).values())
        except ValueError:
            return ()
    names = (name.strip() for name in text.split(",") if "/" not in text)
    return tuple(dict.fromkeys(filter(None, names)))
