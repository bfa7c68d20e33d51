"""Record every engine's load page while a deployment runs, so that `status` has minutes to judge.

The pages are kept unread: their meaning belongs to the status stage, which imports this one.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pdctl.engines import state
from pdctl.engines.clients.sglang import LOADS_PATH
from pdctl.engines.launchers.protocol import Nodes
from pdctl.engines.records import DeploymentState, ProcessState
from pdctl.errors import PdctlError
from pdctl.hosts import in_url

EVERY_S = 5.0  # 64 engines cost 18 ms of CPU a sample
TIMEOUT_S = 1.0
SAMPLE_S = 3.0  # past this, engines that did not answer last time are not asked again
KEPT_S = 180.0  # in each of two files
CURRENT, EARLIER = "minutes.jsonl", "minutes.old.jsonl"
_MAX_BYTES = 32 << 20
_ROUTER_FAMILIES = (b"smg_worker_cb_state", b"smg_router_requests_total")


class Recorder:
    """Asks the serving engines of one deployment in turn and appends their pages to a file."""

    def __init__(self, name: str, nodes: Nodes) -> None:
        self._name = name
        self._nodes = nodes
        self.silent: set[str] = set()  # URLs that did not answer last time
        self._began_s = 0.0

    def run(self) -> None:
        """Record until the process exits."""
        while True:
            began = time.monotonic()
            self.record()
            time.sleep(max(1.0, EVERY_S - (time.monotonic() - began)))

    def record(self) -> int:
        """Record one sample; return the number of engines. Skips a deployment that has no state."""
        try:
            found = state.read_state(self._name)
        except (PdctlError, ValueError):
            found = None
        if found is None or found.phase in ("stopping", "stopped", "failed"):
            return 0
        sample = self._sample(found)
        with suppress(OSError):  # a full disk must not end the supervisor
            self._append(state.state_dir(self._name), sample)
        return len(sample["engines"])

    def _sample(self, found: DeploymentState) -> dict[str, Any]:
        engines = [one for one in found.processes if one.role != "router"]
        router = next((one for one in found.processes if one.role == "router"), None)
        lines = self._router_lines(router) if router else None
        deadline = time.monotonic() + SAMPLE_S
        engines.sort(key=lambda one: one.url in self.silent)
        pages = [self._page(one, deadline) for one in engines]
        return {
            "at": time.time(),
            "engines": [
                [one.name, one.role, one.url, one.phase, page]
                for one, page in zip(engines, pages, strict=True)
            ],
            "router": lines,
        }

    def _page(self, engine: ProcessState, deadline: float) -> str | None:
        if engine.phase != "serving":
            return None
        if engine.url in self.silent and time.monotonic() > deadline:
            return None
        body = self._get(engine, engine.url, LOADS_PATH)
        return None if body is None else body.decode("utf-8", "replace")

    def _router_lines(self, router: ProcessState) -> str | None:
        """The lines of the router's metrics that count requests and name engines."""
        if router.metrics_port is None:
            return None
        host = in_url(urlsplit(router.url).hostname or "")
        body = self._get(router, f"http://{host}:{router.metrics_port}", "/metrics")
        if body is None:
            return None
        lines = (line for line in body.splitlines() if line.startswith(_ROUTER_FAMILIES))
        return b"\n".join(lines).decode("utf-8", "replace")

    def _get(self, process: ProcessState, url: str, path: str) -> bytes | None:
        http = self._nodes.http(process.node)
        answer = http.request("GET", url + path, timeout_s=TIMEOUT_S)
        if answer is None:
            self.silent.add(url)
            return None
        self.silent.discard(url)
        return answer[1] if answer[0] == 200 else None

    def _append(self, directory: Path, sample: dict[str, Any]) -> None:
        current = directory / CURRENT
        if sample["at"] - self._began_s > KEPT_S:
            if current.exists():
                current.replace(directory / EARLIER)
            self._began_s = sample["at"]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        with os.fdopen(os.open(current, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(json.dumps(sample) + "\n")


def start_recording(name: str, nodes: Nodes) -> None:
    """Record in the background until this process exits, without what an earlier one recorded."""
    with suppress(OSError):
        for file in (CURRENT, EARLIER):
            (state.state_dir(name) / file).unlink(missing_ok=True)
    threading.Thread(target=Recorder(name, nodes).run, name="recorder", daemon=True).start()


def recorded(name: str, since_s: float) -> Sequence[dict[str, Any]]:
    """The samples since `since_s` (Unix seconds), oldest first. Skips unreadable lines."""
    samples = [one for file in (EARLIER, CURRENT) for one in _samples(name, file)]
    return [one for one in samples if one["at"] >= since_s]


def _samples(name: str, file: str) -> Iterator[dict[str, Any]]:
    try:
        with (state.state_dir(name) / file).open("rb") as lines:
            text = lines.read(_MAX_BYTES)
    except OSError:
        return
    for line in text.splitlines():
        try:
            sample = json.loads(line)
            at_s = float(sample["at"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # cut off while it was written
        if isinstance(sample.get("engines"), list):
            yield {**sample, "at": at_s}
