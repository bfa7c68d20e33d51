"""Request bodies: token ids that share prefixes exactly where the workload's blocks say so."""

import json
from random import Random

from pdctl.workload.records import Requests

TOKEN_IDS = (1000, 31_000)  # ordinary tokens in every vocabulary of today's LLMs
_POOL_TOKENS = 4096
_HEAD_TOKENS = 16


def token_ids_for(vocab_size: int) -> tuple[int, int]:
    """Ids of ordinary tokens in a vocabulary, away from the special ones at its ends."""
    return min(TOKEN_IDS[0], vocab_size // 8), min(TOKEN_IDS[1], vocab_size - vocab_size // 8)


class Prompts:
    """Bodies for /generate of one list of requests.

    With blocks, equal block ids give equal tokens. Without, no two prompts share a prefix. Blocks
    and prompts begin with tokens of their own and go on in a common pool: a prefix is over at the
    first token that differs, and so they cost microseconds to make, not milliseconds.
    """

    def __init__(
        self, requests: Requests, *, seed: int = 0, token_ids: tuple[int, int] = TOKEN_IDS
    ) -> None:
        self._requests = requests
        self._seed = seed
        self._token_ids = token_ids
        self._pool = self._draw(Random(seed), _POOL_TOKENS)
        self._pool_text = ",".join(self._pool)
        self._rests: dict[int, str] = {}  # pool tokens after a head, by their number

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
        head = self._draw(Random(seed), min(tokens, _HEAD_TOKENS))
        rest = self._rest(tokens - len(head))
        return ",".join((*head, rest)) if rest else ",".join(head)

    def _rest(self, tokens: int) -> str:
        text = self._rests.get(tokens)
        if text is None:
            rounds, rest = divmod(tokens, _POOL_TOKENS)
            parts = [self._pool_text] * rounds
            if rest:
                parts.append(",".join(self._pool[:rest]))
            text = ",".join(parts)
            if len(self._rests) < 64:
                self._rests[tokens] = text
        return text

    def _draw(self, random: Random, count: int) -> list[str]:
        low, high = self._token_ids
        width = high - low
        return [str(low + int(random.random() * width)) for _ in range(count)]
