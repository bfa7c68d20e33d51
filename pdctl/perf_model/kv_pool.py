"""The KV cache of one engine: what requests hold, what the prefix cache holds, what is free."""

from pdctl.perf_model.jobs import Job
from pdctl.perf_model.prefix_cache import PrefixCache


class KvPool:
    """KV tokens of one engine. private: held by requests outside the prefix cache."""

    __slots__ = ("cache", "capacity", "peak", "private")

    def __init__(self, capacity: int, block_tokens: int) -> None:
        self.capacity = capacity
        self.private: float = 0
        self.peak: float = 0
        self.cache = PrefixCache(block_tokens) if block_tokens else None

    def free(self) -> float:
        """Tokens free or evictable."""
        if self.cache is None:
            return self.capacity - self.private
        return self.capacity - self.private - self.cache.locked_tokens

    def in_use(self) -> float:
        """Tokens that requests hold or lock."""
        return self.capacity - self.free()

    def note_peak(self) -> None:
        """Remember the present use if it is the highest so far."""
        used = self.capacity - self.free()
        if used > self.peak:
            self.peak = used

    def claim(self, job: Job) -> float:
        """Find what the cache holds of a prompt and keep it; returns the tokens newly kept."""
        cache = self.cache
        if cache is None or not job.blocks:
            job.done = 0
            return 0
        self.trim()
        job.node, job.covered = cache.match(job.blocks)
        job.done = min(job.covered * cache.block_tokens, job.isl - 1)
        return cache.lock(job.node)

    def unclaim(self, job: Job) -> None:
        """Undo `claim`."""
        job.done = 0
        if job.node is not None and self.cache is not None:
            self.cache.unlock(job.node)
            job.node = None
            job.covered = 0

    def publish(self, job: Job, upto: int) -> None:
        """Put the first `upto` tokens of a prompt, now computed, where others can find them."""
        cache = self.cache
        if cache is None or job.node is None:
            return
        size = cache.block_tokens
        blocks = job.blocks if upto >= job.isl else job.blocks[: upto // size]
        covered = job.covered
        if len(blocks) <= covered:
            return
        tokens = min(len(blocks) * size, job.isl) - covered * size
        job.node, _ = cache.extend(job.node, blocks, covered, tokens)
        job.covered = len(blocks)
        job.private -= tokens
        self.private -= tokens

    def hold(self, job: Job, tokens: int) -> None:
        """Take `tokens` for a request."""
        job.private += tokens
        self.private += tokens

    def release(self, job: Job) -> None:
        """Give back all that a request holds."""
        self.private -= job.private
        job.private = 0
        if job.node is not None and self.cache is not None:
            self.cache.unlock(job.node)
            job.node = None
            job.covered = 0

    def held_by(self, job: Job) -> float:
        """Tokens that would become free or evictable without this request, shared ones apart."""
        return job.private + (min(job.isl, job.prompt) if job.node is not None else 0)

    def trim(self) -> None:
        """Evict what running requests have meanwhile displaced."""
        cache = self.cache
        if cache is not None:
            over = cache.total_tokens + self.private - self.capacity
            if over > 0:
                cache.evict(int(over) + 1)
