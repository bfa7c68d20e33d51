"""HTTP endpoints of a simulated engine, with the answers of SGLang 0.5.23."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from aiohttp import web

from pdctl.engines.sim import info, requests
from pdctl.engines.sim.engine import Engine
from pdctl.engines.sim.partners import Handover, Registry
from pdctl.engines.sim.requests import AcceptedRequest, Reason, Refused, Request
from pdctl.perf_model.records import EngineModel, Role

EVENT_STREAM = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
Status = Literal["Starting", "Up", "UnHealthy"]
_FLUSHED = (
    "Cache flushed.\nPlease check backend logs for more details. "
    "(When there are running or waiting requests, the operation will not be performed.)\n"
)


class Shape(Protocol):
    """The answer format of one API."""

    def first(self) -> bytes:
        """Data to send before the first token of a stream."""
        ...

    def chunk(self, answer: "StreamedAnswer", new_text: str, reason: Reason | None) -> bytes:
        """One event of a stream."""
        ...


class StreamedAnswer:
    """The answer to one request, which grows token by token."""

    def __init__(self, request: Request, seed: int, shape: Shape, index: int = 0) -> None:
        self.request = request
        self.shape = shape
        self.index = index
        self.ids: list[int] = []
        self.text = ""
        self.ids_text = ""
        self.num_sent = 0  # tokens already in the stream
        self.reason: Reason | None = None
        self.began_wall_s = time.time()
        self.stream: EventStream | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._seed = seed
        request.on_tokens = self.add

    def add(self, count: int, reason: Reason | None) -> None:
        """Add `count` tokens, and end the answer if there is a reason."""
        new_text = ""
        for _ in range(count):
            token_id = requests.token(self._seed, len(self.ids))
            self.ids.append(token_id)
            new_text += requests.piece(token_id)
            self.ids_text = f"{self.ids_text},{token_id}" if self.ids_text else str(token_id)
        self.text += new_text
        self.reason = reason
        if self.stream is not None:
            self._send(self.stream, new_text, reason)
        if reason and not self.done.done():
            self.done.set_result(None)

    def attach(self, stream: "EventStream") -> None:
        """Send this answer to a stream from now on, starting with the tokens so far."""
        self.stream = stream
        if self.ids or self.reason:
            self._send(stream, self.text, self.reason)

    def _send(self, stream: "EventStream", new_text: str, reason: Reason | None) -> None:
        stream.send(self.shape.chunk(self, new_text, reason))
        self.num_sent = len(self.ids)

    @property
    def finish_reason(self) -> dict[str, object]:
        """The finish_reason object of SGLang's answer."""
        if self.request.failure:
            status, message = self.request.failure
            kind = "BadRequestError" if status == 400 else "InternalServerError"
            return {"type": "abort", "message": message, "status_code": status, "err_type": kind}
        if self.reason == "stop":
            return {"type": "stop", "matched": 2}
        return {"type": "length", "length": len(self.ids)}


class EventStream:
    """Server-sent events on one connection. Writes never wait."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._response = web.StreamResponse(headers=EVENT_STREAM)

    async def open(self, http: web.Request) -> None:
        self._response.enable_chunked_encoding()
        await self._response.prepare(http)
        transport = http.transport
        self._transport = transport if isinstance(transport, asyncio.Transport) else None

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def close(self) -> web.StreamResponse:
        self.send(b"data: [DONE]\n\n")
        await self._response.write_eof()
        return self._response


class NativeShape:
    """Answers of /generate: meta_info with all text and ids so far, or only the new ones."""

    def __init__(self, *, incremental: bool, is_batch: bool) -> None:
        self._incremental = incremental
        self._is_batch = is_batch

    def first(self) -> bytes:
        return b""

    def chunk(self, answer: StreamedAnswer, new_text: str, reason: Reason | None) -> bytes:
        request = answer.request
        if reason or self._is_batch:
            document = self.document(answer)
            if self._is_batch:
                document["index"] = answer.index
            return b"data: " + json.dumps(document).encode() + b"\n\n"
        text, ids = answer.text, answer.ids_text
        if self._incremental:
            text, ids = new_text, ",".join(map(str, answer.ids[answer.num_sent :]))
        # formatted by hand, because every token costs this; no value here needs escaping
        return (
            f'data: {{"text":"{text}","output_ids":[{ids}],"meta_info":{{"id":"{request.rid}",'
            f'"finish_reason":null,"prompt_tokens":{request.prompt_tokens},'
            f'"weight_version":"default","num_retractions":{request.retractions},'
            f'"reasoning_tokens":0,"completion_tokens":{len(answer.ids)},'
            f'"cached_tokens":{request.cached_tokens}}}}}\n\n'
        ).encode()

    def document(self, answer: StreamedAnswer) -> dict[str, object]:
        """The whole answer so far."""
        request = answer.request
        text, ids = answer.text, answer.ids
        if self._incremental and answer.stream is not None:
            ids = ids[answer.num_sent :]
            text = "".join(map(requests.piece, ids))
        meta: dict[str, object] = {
            "id": request.rid,
            "finish_reason": answer.finish_reason if answer.reason else None,
            "prompt_tokens": request.prompt_tokens,
            "weight_version": "default",
            "num_retractions": request.retractions,
            "reasoning_tokens": 0,
            "completion_tokens": len(answer.ids),
            "cached_tokens": request.cached_tokens,
        }
        if answer.reason:
            meta["e2e_latency"] = time.time() - answer.began_wall_s
        return {"text": text, "output_ids": list(ids), "meta_info": meta}


class OpenAiShape:
    """Answers of /v1/completions and /v1/chat/completions."""

    def __init__(self, *, model: str, rid: str, is_chat: bool) -> None:
        self._model = model
        self._rid = rid
        self._is_chat = is_chat
        self._created = int(time.time())
        kind = "chat.completion" if is_chat else "text_completion"
        chunk_kind = "chat.completion.chunk" if is_chat else kind
        self._head = {"id": rid, "object": kind, "created": self._created, "model": model}
        chunk_head = json.dumps({**self._head, "object": chunk_kind}, separators=(",", ":"))
        self._open = f'data: {chunk_head[:-1]},"choices":['
        self._close = '],"usage":null}\n\n'

    def first(self) -> bytes:
        if not self._is_chat:
            return b""
        return self._event(0, '"delta":{"role":"assistant","content":""}', "null")

    def chunk(self, answer: StreamedAnswer, new_text: str, reason: Reason | None) -> bytes:
        said = f'"delta":{{"content":"{new_text}"}}' if self._is_chat else f'"text":"{new_text}"'
        if not reason:
            return self._event(answer.index, said, "null")
        last = '"delta":{}' if self._is_chat else '"text":""'
        text = self._event(answer.index, said, "null") if new_text else b""
        return text + self._event(answer.index, last, f'"{reason}"')

    def usage_chunk(self, answers: list[StreamedAnswer]) -> bytes:
        """The last event of a stream whose client asked for usage."""
        usage = json.dumps(self.usage(answers), separators=(",", ":"))
        return f'{self._open}],"usage":{usage}}}\n\n'.encode()

    def document(self, answers: list[StreamedAnswer]) -> dict[str, object]:
        choices = [self._choice(answer) for answer in answers]
        return {**self._head, "choices": choices, "usage": self.usage(answers)}

    def usage(self, answers: list[StreamedAnswer]) -> dict[str, object]:
        prompt = sum(answer.request.prompt_tokens for answer in answers)
        completion = sum(len(answer.ids) for answer in answers)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": None,
            "reasoning_tokens": 0,
        }

    def _choice(self, answer: StreamedAnswer) -> dict[str, object]:
        end = {"logprobs": None, "finish_reason": answer.reason, "matched_stop": None}
        if self._is_chat:
            message = {"role": "assistant", "content": answer.text, "tool_calls": None}
            return {"index": answer.index, "message": message, **end}
        return {"index": answer.index, "text": answer.text, **end}

    def _event(self, index: int, said: str, reason: str) -> bytes:
        body = f'{{"index":{index},{said},"logprobs":null,"finish_reason":{reason}}}'
        return f"{self._open}{body}{self._close}".encode()


class Api:
    """The endpoints, and the engine behind them."""

    def __init__(
        self,
        identity: info.Identity,
        engine: Engine,
        registry: Registry | None,
        model_of: Callable[[Role], EngineModel],
    ) -> None:
        self.identity = identity
        self.engine = engine
        self.handover = Handover(engine, registry, identity.moved_bytes)
        self.status: Status = "Starting"
        self.draining = False
        self._model_of = model_of

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        add = app.router.add_route
        for path, get in (
            ("/health", self.health),
            ("/health_generate", self.health),
            ("/ready", self.health),
            ("/model_info", self.model_info),
            ("/get_model_info", self.model_info),
            ("/server_info", self.server_info),
            ("/get_server_info", self.server_info),
            ("/v1/loads", self.loads),
            ("/v1/models", self.models),
            ("/metrics", self.metrics),
            ("/flush_cache", self.flush_cache),
        ):
            add("GET", path, get)
        for path, post in (
            ("/flush_cache", self.flush_cache),
            ("/abort_request", self.abort_request),
            ("/generate", self.generate),
            ("/v1/completions", self.completions),
            ("/v1/chat/completions", self.chat),
            ("/pd_role_switch", self.pd_role_switch),
        ):
            add("POST", path, post)
        return app

    async def health(self, http: web.Request) -> web.Response:
        return web.Response(status=200 if self.status == "Up" and not self.draining else 503)

    async def model_info(self, http: web.Request) -> web.Response:
        return web.json_response(info.model_info(self.identity, self.engine))

    async def server_info(self, http: web.Request) -> web.Response:
        return web.json_response(info.server_info(self.identity, self.engine, self.status))

    async def loads(self, http: web.Request) -> web.Response:
        return web.json_response(info.loads(self.identity, self.engine))

    async def models(self, http: web.Request) -> web.Response:
        name = self.identity.flags.served_name
        card = {
            "id": name,
            "object": "model",
            "created": int(self.identity.started_at),
            "owned_by": "sglang",
            "root": name,
            "parent": None,
            "max_model_len": self.engine.model.max_context,
        }
        return web.json_response({"object": "list", "data": [card]})

    async def metrics(self, http: web.Request) -> web.Response:
        if not self.identity.flags.metrics:
            raise web.HTTPNotFound
        text = info.exposition(self.identity.flags, self.engine)
        return web.Response(text=text, headers={"Content-Type": info.CONTENT_TYPE})

    async def flush_cache(self, http: web.Request) -> web.Response:
        if not self.engine.is_idle:
            text = "Cache not flushed because there are pending requests.\n"
            return web.Response(status=400, text=text)
        self.engine.queues.kv.flush()
        return web.Response(text=_FLUSHED)

    async def abort_request(self, http: web.Request) -> web.Response:
        body = await http.json()
        rid = str(body.get("rid") or "")
        for request in list(self.engine.live.values()):
            if body.get("abort_all") or (rid and request.rid.startswith(rid)):
                self.handover.drop(request, 499, "Abort before prefill")
        return web.Response()

    async def generate(self, http: web.Request) -> web.StreamResponse:
        body, port = await _body(http), self.identity.flags.bootstrap_port
        try:
            accepted = requests.from_native(body, self.engine.role, self.engine.model, port)
        except Refused as problem:
            return _error(400, str(problem))
        is_batch = requests.is_batch(body)
        shape = NativeShape(incremental=self.identity.flags.incremental, is_batch=is_batch)
        answers = self._start(accepted, shape)
        if body.get("stream"):
            return await self._stream(http, answers, first=b"", last=lambda: b"")
        await self._wait(answers)
        failure = next((a.request.failure for a in answers if a.request.failure), None)
        if failure:
            return _error(*failure)
        documents = [shape.document(answer) for answer in answers]
        return web.json_response(documents if is_batch else documents[0])

    async def completions(self, http: web.Request) -> web.StreamResponse:
        return await self._openai(http, is_chat=False)

    async def chat(self, http: web.Request) -> web.StreamResponse:
        return await self._openai(http, is_chat=True)

    async def _openai(self, http: web.Request, *, is_chat: bool) -> web.StreamResponse:
        body, port = await _body(http), self.identity.flags.bootstrap_port
        engine = self.engine
        try:
            accepted = requests.from_openai(body, engine.role, engine.model, port, is_chat=is_chat)
        except Refused as problem:
            return _error(400, str(problem))
        model = str(body.get("model") or self.identity.flags.served_name)
        shape = OpenAiShape(model=model, rid=accepted[0].request.rid, is_chat=is_chat)
        answers = self._start(accepted, shape)
        if body.get("stream"):
            wants_usage = (body.get("stream_options") or {}).get("include_usage")
            return await self._stream(
                http,
                answers,
                first=shape.first(),
                last=lambda: shape.usage_chunk(answers) if wants_usage else b"",
            )
        await self._wait(answers)
        failure = next((a.request.failure for a in answers if a.request.failure), None)
        return _error(*failure) if failure else web.json_response(shape.document(answers))

    async def pd_role_switch(self, http: web.Request) -> web.Response:
        body = await http.json()
        old, new = self.engine.role, str(body.get("new_role") or "").lower()
        problem = self._switch_problem(new, body.get("decode_cuda_graph_memory_gb"))
        answer = {
            "success": problem is None,
            "message": problem or ("already in target role" if new == old else "ok"),
            "old_role": "null" if old == "colocated" else old,
            "new_role": new,
            "safe_to_restore": problem is not None,
        }
        if problem is None and new != old and not body.get("prepare_only"):
            role: Role = "prefill" if new == "prefill" else "decode"
            self.engine.switch_role(role, self._model_of(role))
        return web.json_response(answer, status=200 if problem is None else 400)

    def _switch_problem(self, new: str, graph_gb: object) -> str | None:
        flags, old = self.identity.flags, self.engine.role
        if not flags.role_switch:
            return "--enable-pd-role-switch is not set on this instance"
        if new not in ("prefill", "decode"):
            return f"invalid new_role={new!r}"
        if old == "colocated":
            return "instance is not running in PD disaggregation mode"
        if new == old:
            return None
        if not self.engine.is_idle:
            return "instance is not idle; drain all requests before switching"
        # an engine launched in the decode role already has its CUDA graphs
        if new == "decode" and flags.role != "decode" and graph_gb is None:
            return "decode_cuda_graph_memory_gb is required before capturing decode graphs"
        return None

    def _start(
        self, accepted: list[AcceptedRequest], shape: NativeShape | OpenAiShape
    ) -> list[StreamedAnswer]:
        answers = [
            StreamedAnswer(one.request, one.seed, shape, index)
            for index, one in enumerate(accepted)
        ]
        for one in accepted:
            self.engine.submit(one.request)
            self.handover.expect(one)
        return answers

    async def _stream(
        self,
        http: web.Request,
        answers: list[StreamedAnswer],
        *,
        first: bytes,
        last: Callable[[], bytes],
    ) -> web.StreamResponse:
        stream = EventStream()
        try:
            await stream.open(http)
            if first:
                stream.send(first)
            for answer in answers:
                answer.attach(stream)
        except (ConnectionError, asyncio.CancelledError):
            self._abandon(answers)
            raise
        await self._wait(answers)
        if end := last():
            stream.send(end)
        return await stream.close()

    async def _wait(self, answers: list[StreamedAnswer]) -> None:
        """Wait until all answers are complete. Drop their requests if the client disconnects."""
        try:
            for answer in answers:
                await answer.done
        except asyncio.CancelledError:
            self._abandon(answers)
            raise
        finally:
            for answer in answers:
                self.handover.partners.forget(answer.request)

    def _abandon(self, answers: list[StreamedAnswer]) -> None:
        for answer in answers:
            self.handover.drop(answer.request, 499, "client disconnected")


async def _body(http: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await http.read())
    except ValueError as problem:
        raise web.HTTPBadRequest(text=f"not JSON: {problem}") from problem
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="not a JSON object")
    return body


def _error(status: int, message: str) -> web.Response:
    kind = "BadRequestError" if status == 400 else "InternalServerError"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error, "created": int(time.time())}, status=status)
