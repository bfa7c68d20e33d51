"""Meeting of prefill and decode engines: SGLang's bootstrap registry, and a web socket for rooms.

SGLang moves KV over RDMA. Here, the decode engine tells the registry over a web socket for which
rooms it has allocated KV, and the prefill engine answers when a room's KV has arrived.
"""

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from pdctl.engines.sim.engine import Engine
from pdctl.engines.sim.record import log
from pdctl.engines.sim.requests import AcceptedRequest, Request
from pdctl.units import format_number_of

if TYPE_CHECKING:
    Socket = aiohttp.ClientWebSocketResponse[bool]


ROUTE_TRIES = 15


class Registry:
    """The prefill side: the registry on the bootstrap port, and this engine's rooms."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.engine: Engine | None = None  # set once it can accept rooms
        self._registered: dict[str, object] | None = None
        self._sockets: dict[int, web.WebSocketResponse] = {}  # room -> socket of its decode engine
        self._given_up: deque[int] = deque(maxlen=1000)  # rooms whose request was dropped
        self._open: set[web.WebSocketResponse] = set()
        self._waiting: dict[int, Request] = {}
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. If the port is in use, log it and continue as SGLang does."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/route", self._get_route)
        app.router.add_put("/route", self._put_route)
        app.router.add_get("/sim/rooms", self._rooms)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except OSError as problem:
            await runner.cleanup()
            log(f"Server error: {problem}" if problem.errno == errno.EADDRINUSE else str(problem))
            return
        self._runner = runner
        log(f"CommonKVBootstrapServer started successfully on {self.host}:{self.port}")

    async def register(self, http_port: int, tp: int, dp: int, pp: int) -> None:
        """Register this engine with the registry on the bootstrap port, its own or another's."""
        body: dict[str, object] = {"prefill_http_port": http_port, "tp": tp, "dp": dp, "pp": pp}
        if self._runner is not None:
            self._registered = body
            return
        async with aiohttp.ClientSession() as http:
            try:
                await http.put(f"http://{self.host}:{self.port}/route", json=body)
            except aiohttp.ClientError:
                log("Prefill instance failed to register to bootstrap server after 5 retries")

    async def stop(self) -> None:
        for socket in list(self._open):
            await socket.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def expect(self, request: Request) -> None:
        """Note a new request. It may run once its decode engine has allocated KV for it."""
        assert request.room is not None
        if request.room in self._sockets:
            request.is_ready = True
        else:
            self._waiting[request.room] = request

    def arrived(self, request: Request, *, failed: bool = False) -> None:
        """Tell the decode engine that a room's KV has arrived, or never will."""
        room = request.room or 0
        self._waiting.pop(room, None)
        socket = self._sockets.pop(room, None)
        if socket is None and failed:
            self._given_up.append(room)
        elif socket is not None:
            # like SGLang's metadata, includes the prefix hit, which the decode engine reports
            _say(socket, f"{'failed' if failed else 'done'} {room} {request.cached_tokens}")

    async def _health(self, http: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def _get_route(self, http: web.Request) -> web.Response:
        known = self._registered
        if known is None:
            text = "Prefill server not fully registered yet (0 workers registered)."
            return web.Response(status=503, text=text)
        return web.json_response(
            {
                "attn_tp_size": known["tp"],
                "attn_cp_size": 1,
                "dp_size": known["dp"],
                "pp_size": known["pp"],
                "page_size": 1,
                "kv_cache_dtype": "auto",
                "follow_bootstrap_room": True,
                "enable_dsa_cache_layer_split": False,
                "decode_allocation_policy": "early",
                "enable_kv_cache_sharding": False,
                "prefill_http_port": known["prefill_http_port"],
                "target_tp_rank": None,
                "target_tp_ranks": None,
                "target_cp_ranks": None,
                "target_pp_ranks": None,
                "required_dst_info_num": None,
                "required_prefill_response_num": None,
            }
        )

    async def _put_route(self, http: web.Request) -> web.Response:
        self._registered = await http.json()  # as in SGLang, the last engine wins
        return web.Response(text="OK")

    async def _rooms(self, http: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=10.0)
        await socket.prepare(http)
        self._open.add(socket)
        async for message in socket:
            word, room = str(message.data).split()
            if word == "take":
                self._take(int(room), socket)
            else:
                self._sockets.pop(int(room), None)
        self._open.discard(socket)
        for room_left in [r for r, s in self._sockets.items() if s is socket]:
            del self._sockets[room_left]
        return socket

    def _take(self, room: int, socket: web.WebSocketResponse) -> None:
        if room in self._given_up:
            _say(socket, f"failed {room} 0")
            return
        self._sockets[room] = socket
        request = self._waiting.pop(room, None)
        if request is not None and self.engine is not None:
            request.is_ready = True
            self.engine.wake()


def _say(socket: "web.WebSocketResponse | Socket", text: str) -> None:
    """Send without waiting. If the socket has closed, its reader notices."""
    if not socket.closed:
        task = asyncio.ensure_future(socket.send_str(text))
        task.add_done_callback(lambda sent: sent.cancelled() or sent.exception())


class Partners:
    """The decode side: one socket to each prefill engine met so far."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._http: aiohttp.ClientSession | None = None
        self._sockets: dict[str, Socket] = {}
        self._meeting: dict[str, asyncio.Task[None]] = {}
        self._rooms: dict[int, Request] = {}
        self._address: dict[int, str] = {}

    def expect(self, request: Request, address: str) -> None:
        """Note a new request whose KV comes from the prefill engine at this bootstrap address."""
        assert request.room is not None
        self._rooms[request.room] = request
        self._address[request.room] = address
        if address in self._sockets:
            request.is_ready = True
        elif address not in self._meeting:
            self._meeting[address] = asyncio.ensure_future(self._meet(address))

    def take(self, request: Request) -> None:
        """Tell the prefill engine to start: KV for this request is allocated."""
        room = request.room or 0
        socket = self._sockets.get(self._address.get(room, ""))
        if socket is not None:
            _say(socket, f"take {room}")

    def forget(self, request: Request) -> None:
        """Forget a request that has ended."""
        room = request.room or 0
        self._rooms.pop(room, None)
        self._address.pop(room, None)

    async def stop(self) -> None:
        for task in self._meeting.values():
            task.cancel()
        if self._http is not None:
            await self._http.close()

    async def _meet(self, address: str) -> None:
        """Fetch the registry's answer, open the socket, and read it until it closes."""
        if self._http is None:
            self._http = aiohttp.ClientSession()
        try:
            if not await self._fetch_route(self._http, address):
                tries = f"after {ROUTE_TRIES} attempts"
                self._fail(address, f"Could not fetch prefill parallel info from {address} {tries}")
                return
            async with self._http.ws_connect(f"http://{address}/sim/rooms") as socket:
                await self._listen(address, socket)
            lost = [r for r, a in self._address.items() if a == address]
            text = f"Lost connection with prefill instance (bootstrap_addr: {address}), "
            if lost:
                log(f"{text}{format_number_of(len(lost), 'request')} affected")
            self._fail(address, f"{text}{format_number_of(len(lost), 'request')} affected")
        except aiohttp.ClientError as problem:
            self._fail(address, f"Lost connection with prefill instance: {problem}")
        finally:
            self._sockets.pop(address, None)
            self._meeting.pop(address, None)

    async def _fetch_route(self, http: aiohttp.ClientSession, address: str) -> bool:
        for attempt in range(ROUTE_TRIES):
            if attempt:
                await asyncio.sleep(1.0 / self._engine.speed)
            try:
                query = "prefill_dp_rank=-1&prefill_cp_rank=-1&target_tp_rank=-1&target_pp_rank=-1"
                async with http.get(f"http://{address}/route?{query}") as reply:
                    if reply.status == 200:
                        return True
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
                continue
        return False

    async def _listen(self, address: str, socket: "Socket") -> None:
        self._sockets[address] = socket
        for room, known in self._address.items():
            if known == address:
                self._rooms[room].is_ready = True
        self._engine.wake()
        async for message in socket:
            word, room_text, cached_text = str(message.data).split()
            request = self._rooms.get(int(room_text))
            if request is None:
                continue
            if word == "done":
                request.is_transferred = True
                request.cached_tokens = int(cached_text)
                self._engine.wake()
            else:
                self._engine.fail(request, 500, "KVTransferError: the prefill engine gave up")

    def _fail(self, address: str, message: str) -> None:
        for room in [r for r, known in self._address.items() if known == address]:
            self._engine.record.num_transfer_failed += 1
            self._engine.fail(self._rooms[room], 500, message)


class Handover:
    """Connects an engine's scheduler with its partners. Does nothing for colocated engines."""

    def __init__(
        self, engine: Engine, registry: Registry | None, moved_bytes: Callable[[int], float]
    ) -> None:
        self.engine = engine
        self.registry = registry
        self.partners = Partners(engine)
        self._moved_bytes = moved_bytes
        engine.on_allocated = self._allocated
        engine.on_transfer = self._transferred

    def expect(self, accepted: AcceptedRequest) -> None:
        """Look out for the partner of a new request."""
        request, role = accepted.request, self.engine.role
        if request.fake or request.room is None:
            return
        if role == "prefill" and self.registry is not None:
            self.registry.expect(request)
        elif role == "decode" and accepted.bootstrap is not None:
            self.partners.expect(request, accepted.bootstrap)

    def drop(self, request: Request, status: int, message: str) -> None:
        """Abort a request on both sides."""
        if self.registry is not None and self.engine.role == "prefill" and not request.is_done:
            self.registry.arrived(request, failed=True)
        self.engine.fail(request, status, message)

    async def expire(self, after_s: float) -> None:
        """Abort requests whose partner does not come in time, like SGLang's KVPoll timeouts."""
        record = self.engine.record
        while True:
            await asyncio.sleep(min(1.0, after_s / 10) / self.engine.speed)
            for request in list(self.engine.live.values()):
                state = self._overdue(request, after_s)
                if state is None:
                    continue
                record.num_bootstrap_failed += state == "Bootstrapping"
                record.num_transfer_failed += state == "WaitingForInput"
                text = f"timed out after {after_s:.1f}s in KVPoll.{state}"
                self.drop(request, 500, f"Request {request.rid} {text}")

    def _overdue(self, request: Request, after_s: float) -> str | None:
        """The KVPoll state in which a request has waited too long. None: it is in time."""
        now_s = self.engine.now_s()
        if request.room is None or request.out:
            return None
        since_s = max(request.queued_s, request.arrived_s)  # a new request is not queued yet
        if not request.is_ready:
            return "Bootstrapping" if now_s - since_s > after_s else None
        is_waiting = self.engine.role == "decode" and request.own_tokens
        if not is_waiting or request.is_transferred:
            return None
        late_s = now_s - since_s - request.waited_s
        return "WaitingForInput" if late_s > after_s else None

    def _allocated(self, request: Request) -> None:
        if not request.fake:
            self.partners.take(request)

    def _transferred(self, request: Request) -> None:
        if request.fake:
            return
        if self.registry is not None:
            self.registry.arrived(request)
        seconds = request.transfer_end_s - request.transfer_start_s
        self.engine.record.transferred(seconds, self._moved_bytes(request.prompt_tokens))
