"""Spans of what pdctl does, received by an OTLP collector of the test."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.cli import Cli, until

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="pip install '.[otel]'")

import grpc  # noqa: E402
from opentelemetry.proto.collector.trace.v1 import (  # noqa: E402
    trace_service_pb2 as messages,
)
from opentelemetry.proto.collector.trace.v1 import (  # noqa: E402
    trace_service_pb2_grpc as service,
)

PD = """
schema: 1
name: chat
model: llama-3.1-8b
engine: sim
gpus: 3xH100
prefill: {{engines: 2}}
decode: {{engines: 1}}
observe: {{traces: "127.0.0.1:{port}"}}
"""


class Collector(service.TraceServiceServicer):  # type: ignore[misc]
    """Keeps every span that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # its name in the protocol
        for resource in request.resource_spans:
            labels = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.services.add(labels["service.name"])
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return messages.ExportTraceServiceResponse()

    def has(self, name: str) -> bool:
        return any(span.name == name for span in self.spans)

    def span(self, name: str) -> Any:
        return next(span for span in self.spans if span.name == name)


@pytest.fixture
def collector() -> Iterator[tuple[Collector, int]]:
    """A collector and its port."""
    server, found = grpc.server(ThreadPoolExecutor(2)), Collector()
    service.add_TraceServiceServicer_to_server(found, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield found, port
    server.stop(None)


def test_a_collector_gets_spans_of_start_scale_restart_and_stop(
    cli: Cli, collector: tuple[Collector, int]
) -> None:
    found, port = collector
    (cli.cwd / "pd.yaml").write_text(PD.format(port=port))
    assert cli.run("up", "-d").returncode == 0
    until(lambda: found.has("start"))
    start, prefill = found.span("start"), found.span("start prefill-0")
    assert prefill.parent_span_id == start.span_id
    assert prefill.trace_id == start.trace_id
    assert start.start_time_unix_nano <= prefill.start_time_unix_nano
    assert prefill.end_time_unix_nano <= start.end_time_unix_nano
    assert found.services == {"pdctl"}

    assert cli.run("scale", "chat", "--prefill", "1").returncode == 0
    until(lambda: found.has("scale"))
    switched = found.span("switch prefill-1 to decode-1")
    assert switched.parent_span_id == found.span("scale").span_id

    decode = next(p for p in cli.state("chat")["processes"] if p["name"] == "decode-0")
    os.kill(int(decode["handle"].split("@")[0]), signal.SIGKILL)
    until(lambda: found.has("restart decode-0"))
    assert cli.run("down", "chat").returncode == 0
    until(lambda: found.has("stop"))
