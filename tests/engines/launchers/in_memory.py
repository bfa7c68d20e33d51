"""A launcher without machines: nodes, processes, ports and files are entries of one object."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pdctl.deployment.records import HERE, Container, ProcessSpec
from pdctl.engines.clients.protocol import Http
from pdctl.engines.launchers.protocol import Copied, Door, Exit, Started
from pdctl.engines.records import GpuUse, Handle
from pdctl.hosts import LOOPBACK
from pdctl.inspection.model_contents import Contents
from pdctl.inspection.records import Gpu, RdmaPort, SglangInstall

GPUS_PER_NODE = 3


@dataclass
class InMemoryLauncher:
    """`now` is its clock. drain_s: how long a process takes to end after `terminate`."""

    now: float = 1000.0
    names: tuple[str, ...] = (HERE,)
    drain_s: float = 0.5
    alive: dict[Handle, ProcessSpec] = field(default_factory=dict)
    started: dict[Handle, float] = field(default_factory=dict)
    terminated: dict[Handle, float] = field(default_factory=dict)
    codes: dict[Handle, int] = field(default_factory=dict)
    deaf: set[str] = field(default_factory=set)  # names that ignore `terminate`
    broken: set[str] = field(default_factory=set)  # names that crash as soon as they start
    versions: dict[str, str] = field(default_factory=dict)  # of SGLang, where another one is
    used_ports: set[tuple[str, int]] = field(default_factory=set)
    claimed: tuple[str, ...] = ()  # names of the processes whose ports are
    files: dict[tuple[str, Path], str] = field(default_factory=dict)
    models: dict[tuple[str, Path], Contents] = field(default_factory=dict)
    staging: dict[tuple[str, Path], Copied] = field(default_factory=dict)
    walls: set[tuple[str, str]] = field(default_factory=set)  # from a node to an address
    clocks: dict[str, float] = field(default_factory=dict)  # how far they are ahead
    doors: set[Door] = field(default_factory=set)  # open at this moment
    log: list[str] = field(default_factory=list)
    groups: tuple[tuple[str, ...], ...] = ()  # the nodes of each role, where they have their own
    told_domains: dict[str, str] = field(default_factory=dict)
    is_gone: bool = False  # the machines are not ours any more

    def nodes(self) -> tuple[str, ...]:
        return self.names

    def node_groups(self) -> tuple[tuple[str, ...], ...]:
        return self.groups

    def domains(self) -> Mapping[str, str]:
        return self.told_domains

    def is_over(self) -> bool:
        return self.is_gone

    def address(self, node: str) -> str:
        return LOOPBACK if node == HERE else f"10.0.0.{self.names.index(node) + 1}"

    def gpus(self, node: str) -> tuple[Gpu, ...]:
        return tuple(Gpu(i, "H200", f"{node}-{i}", 1 << 37, 0) for i in range(GPUS_PER_NODE))

    def gpu_use(
        self, node: str, gpus: Sequence[int], *, is_strict: bool = False
    ) -> Mapping[int, GpuUse]:
        return dict.fromkeys(gpus, GpuUse())

    def rdma_ports(self, node: str) -> tuple[RdmaPort, ...]:
        return ()

    def sglang(self, node: str, python: str | None) -> SglangInstall:
        version = self.versions.get(node, "0.5.15")
        return SglangInstall("python", version, ("nixl",), "0.3.2")

    def is_port_free(self, node: str, port: int, *, is_strict: bool = False) -> bool:
        return (node, port) not in self.used_ports

    def claim_ports(self, specs: Sequence[ProcessSpec]) -> None:
        self.claimed = tuple(dict.fromkeys(spec.name for spec in specs))

    @contextmanager
    def hold_ports(
        self, node: str, ports: Collection[int], *, unshared: Collection[int] = ()
    ) -> Iterator[None]:
        yield

    def any_free_port(self, node: str) -> int:
        return 30000

    @contextmanager
    def listening(self, node: str, address: str, ports: Collection[int]) -> Iterator[None]:
        opened = {(address, port) for port in ports}
        self.doors |= opened
        try:
            yield
        finally:
            self.doors -= opened

    def unreached(self, node: str, doors: Collection[Door]) -> tuple[Door, ...]:
        return tuple(d for d in doors if d not in self.doors or (node, d[0]) in self.walls)

    def signal_supervisor(self, node: str, supervisor: Handle, number: int) -> bool:
        raise NotImplementedError

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        container: Container | None = None,
    ) -> str:
        assert argv[0] == "date"
        return str(time.time() + self.clocks.get(node, 0.0))

    def http(self, node: str) -> Http:
        raise NotImplementedError

    def prepare(self, specs: Sequence[ProcessSpec]) -> None:
        self._say("prepare", " ".join(spec.name for spec in specs))

    def start(self, spec: ProcessSpec) -> Started:
        handle = Handle(f"process {len(self.started) + 1}")
        self.alive[handle] = spec
        self.started[handle] = self.now
        self._say("start", spec.name)
        before = self.files.get((spec.node, spec.log), "")
        self.files[spec.node, spec.log] = f"{before}# pdctl {spec.name}\n"
        if spec.name in self.broken:
            self.end(spec.name, 1)
        return Started(handle, str(handle), self.now, len(before))

    def adopt(self, handles: Sequence[Handle]) -> tuple[Started | None, ...]:
        return tuple(
            Started(handle, str(handle), self.started[handle]) if handle in self.alive else None
            for handle in handles
        )

    def poll(self, handle: Handle) -> Exit | None:
        asked = self.terminated.get(handle)
        if handle in self.alive and asked is not None and self.now - asked >= self.drain_s:
            self.ends(handle, 0)
        return None if handle in self.alive else Exit(self.codes.get(handle))

    def terminate(self, handle: Handle) -> None:
        name = self.alive[handle].name
        self._say("terminate", name)
        if name not in self.deaf:
            self.terminated[handle] = self.now

    def kill(self, handle: Handle) -> None:
        name = self.alive[handle].name
        self._say("kill", name)
        self.end(name, -9)

    def living(self, known: Collection[Handle]) -> tuple[str, ...]:
        return tuple(self.alive)

    def kill_others(self, keep: Collection[Handle], nodes: Collection[str]) -> tuple[str, ...]:
        others = tuple(handle for handle in self.alive if handle not in keep)
        for handle in others:
            self.kill(handle)
        return others

    def reap(self, known: Collection[Handle], *, grace_s: float) -> tuple[str, ...]:
        stubborn = tuple(h for h, spec in self.alive.items() if spec.name in self.deaf)
        for handle in tuple(self.alive):
            self.ends(handle, -9 if handle in stubborn else 0)
        return stubborn

    def sweep(self) -> tuple[str, ...]:
        return self.kill_others((), ())

    def variable(self, handle: Handle, name: str) -> str | None:
        return self.alive[handle].env.get(name) if handle in self.alive else None

    def read_log(self, node: str, log: Path) -> tuple[str, ...]:
        return tuple(self.files.get((node, log), "").splitlines())

    def read_added(self, node: str, log: Path, offset: int) -> tuple[str, int]:
        text = self.files.get((node, log), "")
        return text[offset:], len(text)

    def log_size(self, node: str, log: Path) -> int:
        return len(self.files.get((node, log), ""))

    def last_start_at(self, node: str, log: Path) -> int:
        return max(self.files.get((node, log), "").rfind("# pdctl "), 0)

    def rotate_log(self, node: str, log: Path) -> bool:
        return False

    def rename_log(self, node: str, log: Path, to: Path) -> None:
        self.files[node, to] = self.files.pop((node, log), "")

    def model_contents(self, node: str, path: Path) -> Contents | None:
        return self.models.get((node, path))

    def stage(self, node: str, source: Path, target: Path) -> Copied:
        half = Copied(1, 2)
        whole = self.models.get((node, source))
        if whole is None or self.staging.setdefault((node, target), half) == half:
            self.staging[node, target] = Copied(2, 2, is_done=True)
            return half
        self.models[node, target] = whole
        return self.staging[node, target]

    def read_file(self, node: str, path: Path) -> str | None:
        return self.files.get((node, path))

    def write_file(self, node: str, path: Path, text: str) -> None:
        self.files[node, path] = text

    def end(self, name: str, code: int) -> None:
        """A process ends by itself, or something ends it."""
        for handle, its in tuple(self.alive.items()):
            if its.name == name:
                self.ends(handle, code)

    def ends(self, handle: Handle, code: int) -> None:
        """This process ends."""
        del self.alive[handle]
        self.codes[handle] = code

    def _say(self, what: str, name: str) -> None:
        self.log.append(f"{self.now - 1000:g} {what} {name}")
