"""Prompts to blocks and tokens to text: no tokenizer, the same answer in every process."""

import zlib
from array import array
from collections.abc import Sequence

BLOCK_TOKENS = 16  # of the prefix cache
BYTES_PER_TEXT_TOKEN = 4  # a text prompt counts one token for so many bytes
_VOCABULARY = 32_000
_WORDS = "the of and to in is that for it as was with be by on not he his but at are this"
_PIECES = tuple(f" {word}" for word in _WORDS.split())


def ids_of_text(text: str) -> "array[int]":
    """Token ids that stand for `text`: its UTF-8 bytes, four to a token."""
    data = text.encode()
    padding = -len(data) % BYTES_PER_TEXT_TOKEN
    ids = array("I")
    ids.frombytes(data + b"\0" * padding)
    return ids


def ids_of_list(ids: Sequence[int]) -> "array[int]":
    """`ids` compactly. Raises TypeError, OverflowError or ValueError on anything but token ids."""
    return array("I", ids)


def prompt_seed(ids: "array[int]") -> int:
    """What the answer to a prompt depends on: equal prompts, equal answers, in any engine."""
    return zlib.crc32(ids.tobytes())


def token(seed: int, position: int) -> int:
    """The token an engine makes at `position` (0 is the first output token)."""
    mixed = (seed ^ (position * 0x9E3779B1)) & 0xFFFFFFFF
    mixed = (mixed ^ (mixed >> 15)) * 0x85EBCA6B & 0xFFFFFFFF
    return 256 + (mixed ^ (mixed >> 13)) % (_VOCABULARY - 256)


def piece(token_id: int) -> str:
    """The text of a token; never a character that JSON escapes."""
    return _PIECES[token_id % len(_PIECES)]


def blocks_of(ids: "array[int]") -> list[int]:
    """Chained hashes of the full blocks of a prompt: equal leading hashes, equal prefix."""
    data = ids.tobytes()
    size = BLOCK_TOKENS * ids.itemsize
    chain = 0
    blocks = []
    for start in range(0, len(data) - size + 1, size):
        chain = hash((chain, data[start : start + size]))
        blocks.append(chain)
    return blocks


def eos_length(seed: int) -> int:
    """How many tokens an answer has when nobody limits it."""
    return 64 + seed % 193
