"""Which prompts share which leading blocks: one compressed trie over all requests of a trace.

Made once per trace; after that a prompt is a short path of segments (runs of blocks between the
points where prompts part), and caches and the router look at segments instead of blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Path = tuple[int, ...]  # segments of a prompt, from its first token on


@dataclass(frozen=True)
class Prefixes:
    """paths: per request its segments; tokens: per segment its length."""

    paths: Sequence[Path]
    tokens: Sequence[int]


class _Segment:
    __slots__ = ("below", "blocks", "number", "parent", "path")

    def __init__(self, parent: "_Segment | None", blocks: tuple[int, ...]) -> None:
        self.parent = parent
        self.blocks = blocks
        self.below: dict[int, _Segment] = {}
        self.path: Path | None = None
        self.number = -1


def shared_prefixes(
    blocks: Sequence[tuple[int, ...]] | None, block_tokens: int, isl: Sequence[int]
) -> Prefixes | None:
    """The trie of all prompts; None where block ids are unknown.

    isl: per request its prompt tokens; the last block may be partial.
    """
    if blocks is None or block_tokens <= 0:
        return None
    root = _Segment(None, ())
    root.path = ()
    ends = [_insert(root, run) for run in blocks]
    tokens: list[int] = []
    paths = []
    for end, run, length in zip(ends, blocks, isl, strict=True):
        path = end.path if end.path is not None else _path(end, block_tokens, tokens)
        beyond = len(run) * block_tokens - length
        if beyond > 0 and path and not end.below:
            tokens[path[-1]] = max(len(end.blocks) * block_tokens - beyond, 1)
        paths.append(path)
    return Prefixes(paths, tokens)


def _insert(root: _Segment, run: tuple[int, ...]) -> _Segment:
    at, node = 0, root
    count = len(run)
    while at < count:
        child = node.below.get(run[at])
        if child is None:
            child = node.below[run[at]] = _Segment(node, run[at:])
            return child
        key = child.blocks
        length = len(key)
        if length > 1 and run[at : at + length] != key:
            length = _common(key, run, at)
            child = _split(child, length)
        node = child
        at += length
    return node


def _split(node: _Segment, length: int) -> _Segment:
    """Cut a segment's first `length` blocks into one of their own above it, and return that."""
    assert node.parent is not None
    head = _Segment(node.parent, node.blocks[:length])
    node.parent.below[node.blocks[0]] = head
    node.parent = head
    node.blocks = node.blocks[length:]
    head.below[node.blocks[0]] = node
    return head


def _common(key: tuple[int, ...], run: tuple[int, ...], at: int) -> int:
    """How many leading blocks of `key` stand in `run` from `at` on."""
    length = 0
    for mine, theirs in zip(key, run[at : at + len(key)], strict=False):
        if mine != theirs:
            break
        length += 1
    return length


def _path(node: _Segment, block_tokens: int, tokens: list[int]) -> Path:
    """A segment's path from the root; numbers segments as they are first met."""
    chain = []
    at: _Segment | None = node
    while at is not None and at.path is None:
        chain.append(at)
        at = at.parent
    path: Path = at.path if at is not None and at.path is not None else ()
    for segment in reversed(chain):
        segment.number = len(tokens)
        tokens.append(len(segment.blocks) * block_tokens)
        path = (*path, segment.number)
        segment.path = path
    return path
