"""Request bodies: token ids that share prefixes exactly where the workload's blocks say so."""

import json
from array import array
from itertools import accumulate
from random import Random, SystemRandom

from pdctl.workload.records import Requests

TOKEN_IDS = (1000, 31_000)  # ordinary tokens in every vocabulary of today's LLMs
_POOL_TOKENS = 32_768
_HEAD_TOKENS = 16


def token_ids_for(vocab_size: int) -> tuple[int, int]:
    """Ids of ordinary tokens in a vocabulary, away from the special ones at its ends."""
    return min(TOKEN_IDS[0], vocab_size // 8), min(TOKEN_IDS[1], vocab_size - vocab_size // 8)


def fresh_seed() -> int:
    """A seed of prompts that no engine has seen: its prefix cache would answer for it."""
    return SystemRandom().getrandbits(48)


class Prompts:
    """Bodies for /generate of one list of requests.

    With blocks, equal block ids give equal tokens. Without, no two prompts share a prefix. Blocks
    and prompts begin with tokens of their own and go on from a place of their own in a pool of
    random tokens: slicing costs microseconds. The content must differ, not only the beginning:
    equal tokens take the same experts of an MoE, and a decode step that read half of all experts
    then reads a few (seen on an H100: 8 ms instead of 20).
    """

    def __init__(
        self, requests: Requests, *, seed: int = 0, token_ids: tuple[int, int] = TOKEN_IDS
    ) -> None:
        self._requests = requests
        self._seed = seed
        self._token_ids = token_ids
        pool = self._draw(Random(seed), _POOL_TOKENS)
        self._text = ",".join(pool * 2)  # twice, so that a slice may run over the end
        self._ends = array("q", accumulate(len(token) + 1 for token in pool * 2))

    def body(self, index: int) -> bytes:
        """The JSON of request `index`."""
        sampling = {
            "max_new_tokens": self._requests.osl[index],
            "temperature": 0,
            "ignore_eos": True,
        }
        ids = self._ids(index)
        head = f'{{"input_ids":[{ids}],"sampling_params":{json.dumps(sampling)},"stream":true}}'
        return head.encode()

    def _ids(self, index: int) -> str:
        left = self._requests.isl[index]
        blocks = self._requests.blocks[index] if self._requests.blocks is not None else ()
        size = self._requests.block_tokens
        parts = []
        for block in blocks if size > 0 else ():
            if left <= 0:
                break
            parts.append(self._piece(f"{self._seed}:{block}", min(size, left)))
            left -= size
        if left > 0:
            parts.append(self._piece(f"{self._seed}/{index}", left))
        return ",".join(parts)

    def _piece(self, seed: str, tokens: int) -> str:
        """Tokens that depend on `seed`; of two lengths, the shorter is a prefix of the longer."""
        random = Random(seed)
        head = self._draw(random, min(tokens, _HEAD_TOKENS))
        start = int(random.random() * _POOL_TOKENS)
        rest = tokens - len(head)
        slices = []
        while rest > 0:
            count = min(rest, _POOL_TOKENS)
            slices.append(self._slice(start, count))
            rest -= count
        return ",".join((*head, *slices))

    def _slice(self, start: int, count: int) -> str:
        """`count` tokens of the pool from place `start` on, at most the pool's length."""
        first = self._ends[start - 1] if start else 0
        return self._text[first : self._ends[start + count - 1] - 1]

    def _draw(self, random: Random, count: int) -> list[str]:
        low, high = self._token_ids
        width = high - low
        return [str(low + int(random.random() * width)) for _ in range(count)]
