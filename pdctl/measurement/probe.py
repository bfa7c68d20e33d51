"""An engine that is asked directly, no router in the way, and prompts for it.

Prompts are random token ids, so that no two share a prefix unless the one who asks says so.
"""

import random
import time
from dataclasses import dataclass, field

import aiohttp

from pdctl.perf_model.records import Role

_FIRST_TOKEN_ID, _LAST_TOKEN_ID = 1000, 31000


@dataclass(frozen=True)
class Probed:
    """The engine being probed. `rng` makes the prompts; the same seed makes the same ones."""

    url: str
    role: Role
    http: aiohttp.ClientSession
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    token_ids: tuple[int, int] = (_FIRST_TOKEN_ID, _LAST_TOKEN_ID)


def prompt(engine: Probed, num_tokens: int) -> list[int]:
    """Token ids that no earlier prompt began with, but by accident."""
    low, high = engine.token_ids
    return [engine.rng.randrange(low, high) for _ in range(num_tokens)]


async def hop_s(engine: Probed, repeats: int = 9) -> float:
    """Median time of an answer that needs no step: what HTTP itself costs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        async with engine.http.get(f"{engine.url}/model_info") as answer:
            await answer.read()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
