"""The KV cache of one engine: what requests hold, what the prefix cache holds, what is free."""

from collections.abc import Sequence

from pdctl.perf_model.jobs import Job
from pdctl.perf_model.prefix_cache import PrefixCache


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
