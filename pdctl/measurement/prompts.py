"""Request bodies: token ids that share prefixes exactly where the workload's blocks say so."""

import json
from collections import OrderedDict
from random import Random

from pdctl.workload.records import Requests

TOKEN_IDS = (1000, 31_000)  # ordinary tokens in every vocabulary of today's LLMs
_POOL_TOKENS = 4096
_HEAD_TOKENS = 16
_KEPT_BLOCKS = 20_000


class Prompts:
    """Bodies for /generate of one list of requests.

    With blocks, equal block ids give equal tokens. Without, no two prompts share a prefix: each
    begins with tokens of its own and goes on in a common pool, so that it costs little to make.
    """

    def __init__(
        self, requests: Requests, *, seed: int = 0, token_ids: tuple[int, int] = TOKEN_IDS
    ) -> None:
        self._requests = requests
        self._seed = seed
        self._token_ids = token_ids
        self._pool = self._draw(Random(seed), _POOL_TOKENS)
        self._pool_text = ",".join(self._pool)
        self._blocks: OrderedDict[int, str] = OrderedDict()

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
        isl = self._requests.isl[index]
        blocks = self._requests.blocks[index] if self._requests.blocks is not None else ()
        size = self._requests.block_tokens
        if not blocks or size <= 0:
            return self._alone(index, isl)
        whole = min(len(blocks), isl // size)
        parts = [self._block(block, size) for block in blocks[:whole]]
        rest = isl - whole * size
        if rest and whole < len(blocks):
            part = self._block(blocks[whole], size).split(",")[:rest]
            parts.append(",".join(part))
            rest -= len(part)
        if rest:
            parts.append(self._alone(index, rest))
        return ",".join(parts)

    def _alone(self, index: int, tokens: int) -> str:
        head = self._draw(Random(f"{self._seed}/{index}"), min(tokens, _HEAD_TOKENS))
        rounds, rest = divmod(tokens - len(head), _POOL_TOKENS)
        parts = [",".join(head), *([self._pool_text] * rounds)]
        if rest:
            parts.append(",".join(self._pool[:rest]))
        return ",".join(parts)

    def _block(self, block: int, size: int) -> str:
        text = self._blocks.get(block)
        if text is None:
            text = ",".join(self._draw(Random(f"{self._seed}:{block}"), size))
            self._blocks[block] = text
            if len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(block)
        return text

    def _draw(self, random: Random, count: int) -> list[str]:
        low, high = self._token_ids
        width = high - low
        return [str(low + int(random.random() * width)) for _ in range(count)]
