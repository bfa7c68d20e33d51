"""Ask many nodes at the same time."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

K = TypeVar("K")
R = TypeVar("R")

MAX_AT_ONCE = 32


def of_each(nodes: Iterable[K], ask: Callable[[K], R]) -> dict[K, R]:
    """The answer of each node, in their order. Raises what the first failing answer raises."""
    names = tuple(nodes)
    with ThreadPoolExecutor(MAX_AT_ONCE) as each:
        return dict(zip(names, each.map(ask, names), strict=True))
