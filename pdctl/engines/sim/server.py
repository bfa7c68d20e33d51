"""Life cycle of a simulated engine: simulated loading, serving, draining."""

import asyncio
import hmac
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from pdctl.deployment.gpu_file import read_gpu_file
from pdctl.deployment.serving import served_llm, simulated_serving
from pdctl.engines.clients.api_key import api_key
from pdctl.engines.sim.api import Api
from pdctl.engines.sim.engine import Engine
from pdctl.engines.sim.flags import SimFlags
from pdctl.engines.sim.info import Identity
from pdctl.engines.sim.partners import Registry
from pdctl.engines.sim.record import log, quieten, time_stats_line, write_log
from pdctl.engines.sim.requests import Request
from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.engine_model import does_not_fit_reason, engine_model
from pdctl.perf_model.fitting.profiles import named_profile
from pdctl.perf_model.hardware import kv_value_bytes
from pdctl.perf_model.memory import kv_cell_bytes, weight_bytes_per_gpu
from pdctl.perf_model.records import EngineModel, Parallelism, Role
from pdctl.units import GIB

# SGLang answers these without a key, so that a router can check its engines
OPEN_PATHS = ("/health", "/ready", "/metrics")
# share of --sim-start-s after which each phase of SGLang's start-up log ends
_WEIGHTS, _POOL, _GRAPHS = 0.6, 0.7, 0.95

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guard(key: str | None) -> tuple[Middleware, ...]:
    """Middleware that refuses requests without the key. Empty if there is no key."""
    if key is None:
        return ()
    wanted = f"Bearer {key}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if request.path.startswith(OPEN_PATHS) or hmac.compare_digest(given, wanted):
            return await handler(request)
        return web.json_response({"error": "Unauthorized"}, status=401)

    return (check,)


async def wait_as_follower(flags: SimFlags) -> int:
    """Be a rank after 0: serve nothing, ignore SIGTERM, and wait for the end."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
    log(f"Rank {flags.node_rank} follows rank 0; only rank 0 serves")
    await asyncio.Event().wait()
    return 0


async def serve_engine(flags: SimFlags) -> int:
    """Start, serve until a signal, drain. Returns the exit code."""
    started_at = time.time()
    described = read_gpu_file(Path(flags.gpu_file)) if flags.gpu_file else None
    llm = served_llm(read_llm(flags.model), flags.argv)
    cluster = parse_gpus(flags.gpus, described=described)
    model = _model(flags, llm, cluster, flags.role)
    log(f"server_args=ServerArgs(model_path={flags.model!r}, port={flags.port}, simulated=True)")
    if flags.ignored:
        log(f"Simulated engine ignores: {' '.join(flags.ignored)}")
    registry = await _registry(flags)
    identity = _identity(flags, llm, cluster, model, started_at)
    await _load(flags, identity, model)
    engine = Engine(
        model, speed=flags.speed, overlap=flags.overlap, noise=flags.noise, seed=flags.port
    )
    if flags.request_times:
        engine.on_end = partial(_log_times, engine, identity)
    api = Api(identity, engine, registry, lambda role: _model(flags, llm, cluster, role))
    application = api.application()
    application.middlewares.extend(guard(api_key()))
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    quieten()
    await runner.setup()
    try:
        await web.TCPSite(runner, flags.host, flags.port, backlog=4096).start()
    except OSError as problem:
        log(f"ERROR: [Errno {problem.errno}] error while attempting to bind on address: {problem}")
        return 1
    log(f"Uvicorn running on http://{flags.host}:{flags.port} (Press CTRL+C to quit)")
    try:
        await _serve_until_stopped(api, registry)
    finally:
        await api.handover.partners.stop()
        if registry is not None:
            await registry.stop()
        await runner.cleanup()
    return 0


def _log_times(engine: Engine, identity: Identity, request: Request, end_s: float) -> None:
    line = time_stats_line(
        request,
        engine.role,
        end_s,
        speed=engine.speed,
        unix_s=engine.unix_s,
        kv_bytes=0.0 if request.fake else identity.moved_bytes(request.prompt_tokens),
    )
    log(line)


async def _serve_until_stopped(api: Api, registry: Registry | None) -> None:
    flags = api.identity.flags
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    at_once = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, at_once.set)
    loop.add_signal_handler(signal.SIGQUIT, _die)
    if registry is not None:
        registry.engine = api.engine
        await registry.register(flags.port, flags.tp, flags.dp, flags.pp)
    scheduler = asyncio.create_task(api.engine.run())
    timeout_s = float(os.environ.get("SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT", "300"))
    expiry = asyncio.create_task(api.handover.expire(timeout_s))
    scheduler.add_done_callback(_died)
    if flags.role != "colocated":
        log("Start of pd disaggregation warmup ...")
        log("End of disaggregation warmup")
    api.status = "Up"
    log("The server is fired up and ready to roll!")
    stopping = [asyncio.ensure_future(event.wait()) for event in (stop, at_once)]
    await asyncio.wait(stopping, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        await _drain(api)
    scheduler.remove_done_callback(_died)
    for task in (scheduler, expiry):
        task.cancel()


async def _drain(api: Api) -> None:
    """Wait until all requests are answered. Like SGLang, still accepts new ones meanwhile."""
    log("SIGTERM received. Draining requests and shutting down...")
    api.draining = True
    while api.engine.live:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0)  # lets the tasks of the last answers write them
    log("Gracefully exiting... Remaining number of requests 0")


def _die() -> None:
    """Kill this process. SGLang's children send SIGQUIT when they die, which has this effect."""
    log("Received sigquit from a child process. It usually means the child failed.")
    os.kill(os.getpid(), signal.SIGKILL)


def _died(scheduler: "asyncio.Task[None]") -> None:
    """Kill this process if its scheduler has failed."""
    if scheduler.cancelled():
        return
    log(f"Scheduler hit an exception: {scheduler.exception()!r}")
    sys.excepthook(*_exception(scheduler))
    _die()


def _exception(task: "asyncio.Task[None]") -> tuple[type[BaseException], BaseException, None]:
    problem = task.exception() or RuntimeError("the scheduler returned")
    return type(problem), problem, None


async def _registry(flags: SimFlags) -> Registry | None:
    """The bootstrap registry of a prefill or switchable engine. Starts before weights load."""
    if flags.role != "prefill" and not flags.role_switch:
        return None
    registry = Registry(flags.host, flags.bootstrap_port)
    await registry.start()
    return registry


async def _load(flags: SimFlags, identity: Identity, model: EngineModel) -> None:
    """Write the log lines that SGLang writes while it loads, over the time given by flags."""
    start = time.monotonic()

    async def until(share: float) -> None:
        await asyncio.sleep(max(0.0, start + flags.start_s * share - time.monotonic()))

    free = identity.weight_gb + identity.kv_gb + 20
    log(f"Load weight begin. avail mem={free:.2f} GB")
    shards = 4 if flags.start_s else 0
    for shard in range(1, shards + 1):
        await until(_WEIGHTS * shard / shards)
        done = f"{100 * shard // shards}% Completed | {shard}/{shards}"
        write_log(f"Multi-thread loading shards: {done} [00:00<00:00]\n")
    free -= identity.weight_gb
    log(
        f"Load weight end. elapsed={flags.start_s * _WEIGHTS:.2f} s, "
        f"type={identity.llm.architecture}, avail mem={free:.2f} GB, "
        f"mem usage={identity.weight_gb:.2f} GB."
    )
    await until(_POOL)
    log(f"Memory pool end. avail mem={free - identity.kv_gb:.2f} GB")
    if flags.role != "prefill":
        log("Capture target decode CUDA graph begin. backend=full")
        graphs = 4 if flags.start_s else 0
        for graph in range(1, graphs + 1):
            await until(_POOL + (_GRAPHS - _POOL) * graph / graphs)
            write_log(f"Capturing batches (bs={64 // graph}): | {graph * 9}/36 [00:00]\n")
        log("Capture target decode CUDA graph end. mem usage=0.51 GB")
    ranks = model.parallelism.dp
    log(
        f"max_total_num_tokens={model.kv_capacity_tokens // ranks}, "
        f"chunked_prefill_size={model.chunked_prefill_size // ranks}, max_prefill_tokens=16384, "
        f"max_running_requests={model.max_running_requests // ranks}, "
        f"context_len={model.max_context}"
    )
    await until(1.0)


def _model(flags: SimFlags, llm: Llm, cluster: Cluster, role: Role) -> EngineModel:
    parallelism = Parallelism(flags.tp, flags.pp, flags.dp, flags.ep)
    serving = simulated_serving(flags.argv)
    profile = named_profile(flags.profile) if flags.profile else None
    model = engine_model(llm, cluster, parallelism, role, profile=profile, serving=serving)
    if model is None:
        reason = does_not_fit_reason(llm, cluster, parallelism, role, serving=serving)
        raise InvalidInput(f"Not enough memory: {reason}.", hint="--tp-size or other --sim-gpus")
    return model


def _identity(
    flags: SimFlags, llm: Llm, cluster: Cluster, model: EngineModel, started_at: float
) -> Identity:
    value_bytes = kv_value_bytes(llm, cluster.gpu, None)
    cell = kv_cell_bytes(llm, model.parallelism, value_bytes)
    return Identity(
        flags=flags,
        llm=llm,
        gpu_name=cluster.gpu.name,
        weight_gb=round(weight_bytes_per_gpu(llm, model.parallelism) / GIB, 3),
        kv_gb=round(model.kv_capacity_tokens / model.parallelism.dp * cell / GIB, 3),
        started_at=started_at,
    )
