"""The KV cache of one engine: what requests hold, what the prefix cache holds, what is free."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from pdctl.perf_model.simulator.job import Job, Path


class PrefixCache:
    """Segments held by number. total_tokens: all held; locked_tokens: of these, in use."""

    __slots__ = ("_idle", "_locks", "_tokens", "locked_tokens", "total_tokens")

    def __init__(self, segment_tokens: Sequence[int]) -> None:
        self._tokens = segment_tokens
        self._locks: dict[int, int] = {}  # requests that use a segment, for all segments held
        self._idle: OrderedDict[int, None] = OrderedDict()  # those nobody uses, oldest first
        self.total_tokens = 0
        self.locked_tokens = 0

    def tokens_of(self, segment: int) -> int:
        """Length of a segment."""
        return self._tokens[segment]

    def claim(self, path: Path) -> tuple[int, int, int]:
        """Lock the leading segments that are held.

        Returns how many they are, their tokens, and of these the tokens nobody else had locked.
        """
        locks, tokens = self._locks, self._tokens
        covered = matched = newly = 0
        for segment in path:
            users = locks.get(segment)
            if users is None:
                break
            size = tokens[segment]
            if not users:
                newly += size
                del self._idle[segment]
            locks[segment] = users + 1
            matched += size
            covered += 1
        self.locked_tokens += newly
        return covered, matched, newly

    def publish(self, segments: Path) -> int:
        """Hold and lock freshly computed segments below claimed ones; returns their tokens."""
        locks, tokens = self._locks, self._tokens
        total = fresh = newly = 0
        for segment in segments:
            size = tokens[segment]
            total += size
            users = locks.get(segment)
            if users is None:
                locks[segment] = 1
                fresh += size
                continue
            if not users:
                newly += size
                del self._idle[segment]
            locks[segment] = users + 1
        self.total_tokens += fresh
        self.locked_tokens += fresh + newly
        return total

    def release(self, path: Path, covered: int) -> None:
        """Unlock the first `covered` segments of a path."""
        locks, idle = self._locks, self._idle
        for place in range(covered - 1, -1, -1):
            segment = path[place]
            users = locks[segment] - 1
            locks[segment] = users
            if not users:
                self.locked_tokens -= self._tokens[segment]
                idle[segment] = None

    def evict(self, tokens: float) -> None:
        """Forget the least recently used segments until `tokens` are free or all are in use."""
        idle, locks = self._idle, self._locks
        while tokens > 0 and idle:
            segment, _ = idle.popitem(last=False)
            del locks[segment]
            size = self._tokens[segment]
            tokens -= size
            self.total_tokens -= size


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
    """The number of leading blocks of `key` in `run` from `at` on."""
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


class KvPool:
    """KV tokens of one engine. private: held by requests outside the prefix cache.

    locked: held by requests inside it. What is neither is free or evictable.
    """

    __slots__ = ("cache", "capacity", "locked", "peak", "private")

    def __init__(self, capacity: int, segment_tokens: Sequence[int] | None) -> None:
        self.capacity = capacity
        self.private: float = 0.0
        self.locked = 0
        self.peak: float = 0.0
        self.cache = None if segment_tokens is None else PrefixCache(segment_tokens)

    def free(self) -> float:
        """Tokens free or evictable."""
        return self.capacity - self.private - self.locked

    def note_peak(self) -> None:
        """Remember the present use if it is the highest so far."""
        used = self.private + self.locked
        if used > self.peak:
            self.peak = used

    def claim(self, job: Job) -> float:
        """Find what the cache holds of a prompt and keep it; returns the tokens newly kept."""
        cache = self.cache
        if cache is None:
            job.done = job.cached = 0
            return 0
        over = cache.total_tokens + self.private - self.capacity
        if over > 0:
            cache.evict(over)
        job.covered, matched, newly = cache.claim(job.path)
        self.locked = cache.locked_tokens
        job.done = job.cached = matched if matched < job.isl else job.isl - 1
        return newly

    def unclaim(self, job: Job) -> None:
        """Undo `claim`."""
        job.done = 0
        if job.covered and self.cache is not None:
            self.cache.release(job.path, job.covered)
            self.locked = self.cache.locked_tokens
            job.covered = 0

    def publish(self, job: Job) -> None:
        """Put a computed prompt where others can find it."""
        cache = self.cache
        if cache is not None and job.covered < len(job.path):
            tokens = cache.publish(job.path[job.covered :] if job.covered else job.path)
            self.locked = cache.locked_tokens
            job.covered = len(job.path)
            job.private -= tokens
            self.private -= tokens

    def publish_part(self, job: Job) -> None:
        """Put the whole segments among a prompt's computed tokens where others can find them."""
        cache = self.cache
        if cache is None:
            return
        upto = job.covered
        left = job.private
        for segment in job.path[upto:]:
            left -= cache.tokens_of(segment)
            if left < 0:
                break
            upto += 1
        if upto > job.covered:
            tokens = cache.publish(job.path[job.covered : upto])
            self.locked = cache.locked_tokens
            job.covered = upto
            job.private -= tokens
            self.private -= tokens

    def hold(self, job: Job, tokens: int) -> None:
        """Take `tokens` for a request."""
        job.private += tokens
        self.private += tokens

    def release(self, job: Job) -> None:
        """Give back all that a request holds."""
        self.private -= job.private
        job.private = 0.0
        if job.covered and self.cache is not None:
            self.cache.release(job.path, job.covered)
            self.locked = self.cache.locked_tokens
            job.covered = 0
