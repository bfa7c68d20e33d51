"""Who may ask a simulated engine: as SGLang decides it with --api-key."""

import hmac
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

# SGLang answers these without a key, so that a router can watch its engines
OPEN = ("/health", "/ready", "/metrics")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guard(key: str | None) -> tuple[Middleware, ...]:
    """The middleware that turns away requests without the key; none without a key."""
    if key is None:
        return ()
    wanted = f"Bearer {key}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if request.path.startswith(OPEN) or hmac.compare_digest(given, wanted):
            return await handler(request)
        return web.json_response({"error": "Unauthorized"}, status=401)

    return (check,)
