"""Send a span for each operation of a deployment to an OTLP collector.

    python -m pdctl.engines.tracer NAME HOST:PORT

A process beside the supervisor, which starts it and whose end it shares. It follows the event log.
"""

import argparse
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode, Tracer, set_span_in_context

from pdctl.engines import state
from pdctl.engines.records import Event
from pdctl.engines.supervision.operations import Begin, End, Operations

LOOK_EVERY_S = 0.2
SEND_EVERY_MS = 1000
LAST_WORD_MS = 3000


class Spans:
    """The spans of the operations that are open."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._operations = Operations()
        self._spans: dict[str, Span] = {}

    def take(self, event: Event) -> None:
        """Begin and end spans as an event says."""
        for mark in self._operations.take(event):
            if isinstance(mark, Begin):
                self._begin(mark)
            else:
                self._end(mark)

    def _begin(self, mark: Begin) -> None:
        parent = self._spans.get(mark.parent)
        self._spans[mark.key] = self._tracer.start_span(
            mark.name,
            context=set_span_in_context(parent) if parent else None,
            start_time=_nanoseconds(mark.at_s),
            attributes={f"pdctl.{key}": value for key, value in mark.attributes.items()},
        )

    def _end(self, mark: End) -> None:
        span = self._spans.pop(mark.key, None)
        if span is None:
            return
        for key, value in mark.attributes.items():
            span.set_attribute(f"pdctl.{key}", value)
        if mark.problem:
            span.set_status(Status(StatusCode.ERROR, mark.problem))
        span.end(_nanoseconds(mark.at_s))


def _nanoseconds(at_s: float) -> int:
    return int(at_s * 1e9)


class EventTail:
    """The events that are appended to a log, also after it was set aside."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at, self._torn = 0, b""

    def added(self) -> Iterator[Event]:
        """The events that came since the last call."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._at:
                    self._at, self._torn = 0, b""
                file.seek(self._at)
                lines = (self._torn + file.read()).split(b"\n")
                self._at, self._torn = file.tell(), lines[-1]
        except FileNotFoundError:
            return
        for line in lines[:-1]:
            event = state.parse(line.decode("utf-8", "replace"))
            if event:
                yield event


def main() -> None:
    """Follow the deployment of the command line until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m pdctl.engines.tracer")
    parser.add_argument("name")
    parser.add_argument("endpoint")
    options = parser.parse_args()
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    provider = TracerProvider(
        resource=Resource.create({"service.name": "pdctl", "pdctl.deployment": options.name})
    )
    exporter = OTLPSpanExporter(options.endpoint, insecure=True)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=SEND_EVERY_MS))
    spans = Spans(provider.get_tracer("pdctl"))
    events = EventTail(state.state_dir(options.name) / state.FILE)
    is_last = False
    while not is_last:
        is_last = bool(asked)
        for event in events.added():
            spans.take(event)
        time.sleep(0 if is_last else LOOK_EVERY_S)
    provider.force_flush(LAST_WORD_MS)
    os._exit(0)  # the exporter's threads may still wait for a collector


if __name__ == "__main__":
    main()
