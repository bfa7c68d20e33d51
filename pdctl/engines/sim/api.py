"""The HTTP endpoints of a simulated engine, as SGLang 0.5.23 has them."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Literal

from aiohttp import web

from pdctl.engines.sim import info, intake, metrics
from pdctl.engines.sim.answers import Answer, EventStream, NativeShape, OpenAiShape
from pdctl.engines.sim.engine import Engine
from pdctl.engines.sim.handover import Handover
from pdctl.engines.sim.intake import Refused, Taken
from pdctl.engines.sim.partners import Registry
from pdctl.perf_model.records import EngineModel, Role

Status = Literal["Starting", "Up", "UnHealthy"]
_FLUSHED = (
    "Cache flushed.\nPlease check backend logs for more details. "
    "(When there are running or waiting requests, the operation will not be performed.)\n"
)


class Api:
    """The endpoints, with what they act on."""

    def __init__(
        self,
        identity: info.Identity,
        engine: Engine,
        registry: Registry | None,
        model_of: Callable[[Role], EngineModel],
    ) -> None:
        self.identity = identity
        self.engine = engine
        self.handover = Handover(engine, registry, identity.kv_bytes_per_token)
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
        text = metrics.exposition(self.identity.flags, self.engine)
        return web.Response(text=text, headers={"Content-Type": metrics.TYPE})

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
            taken = intake.from_native(body, self.engine.role, self.engine.model, port)
        except Refused as problem:
            return _error(400, str(problem))
        is_batch = intake.is_batch(body)
        shape = NativeShape(incremental=self.identity.flags.incremental, is_batch=is_batch)
        answers = self._start(taken, shape)
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
            taken = intake.from_openai(body, engine.role, engine.model, port, is_chat=is_chat)
        except Refused as problem:
            return _error(400, str(problem))
        model = str(body.get("model") or self.identity.flags.served_name)
        shape = OpenAiShape(model=model, rid=taken[0].request.rid, is_chat=is_chat)
        answers = self._start(taken, shape)
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
        # an engine launched as decode has its graphs from the start
        if new == "decode" and flags.role != "decode" and graph_gb is None:
            return "decode_cuda_graph_memory_gb is required before capturing decode graphs"
        return None

    def _start(self, taken: list[Taken], shape: NativeShape | OpenAiShape) -> list[Answer]:
        answers = [Answer(one.request, one.seed, shape, index) for index, one in enumerate(taken)]
        for one in taken:
            self.engine.submit(one.request)
            self.handover.expect(one)
        return answers

    async def _stream(
        self, http: web.Request, answers: list[Answer], *, first: bytes, last: Callable[[], bytes]
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

    async def _wait(self, answers: list[Answer]) -> None:
        """Until every answer is whole; a client that leaves takes its requests with it."""
        try:
            for answer in answers:
                await answer.done
        except asyncio.CancelledError:
            self._abandon(answers)
            raise
        finally:
            for answer in answers:
                self.handover.partners.forget(answer.request)

    def _abandon(self, answers: list[Answer]) -> None:
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
