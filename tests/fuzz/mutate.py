"""Inputs that are nearly right: real ones with a few random injuries."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

NASTY = (
    *(b"NaN", b"-1", b"1e999", b"-1e-999", b"null", b"true", b"[]", b"{}", b'""', b"0", b"0x1f"),
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"\x1b[2J\x1b]0;x\x07", b"\r", b"\n\n"),
    *(b"9" * 400, b"[" * 2000, b'{"a":' * 500, b"&a [*a,*a]", b"!!python/object:os.system", b"..."),
    *(
        "１２".encode(),
        "\u2028".encode(),
        b"1_000",
        b"+5",
        b" " * 300,
        b'"\\',
        b"18446744073709551616",
    ),
    *(
        b"Infinity",
        b"2026-13-45 99:99",
        b"<<: *a",
        b"? -",
        b"| 9",
        b"# ",
        b"\xef\xbb\xbf",
        b"\x1f\x8b",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 0.0, -0.5, 1e308, 5e-324),
    *(
        float("nan"),
        float("inf"),
        "",
        "0",
        "null",
        "prefill",
        "\x00",
        "\x1b[31m",
        "\ud800",
        "x" * 999,
    ),
    *([], {}, [[]], [None], {"": None}, [1, "a", {}], {"loads": []}, "1" * 5000),
)


def mutated(corpus: Sequence[bytes], seed: int) -> bytes:
    """One of `corpus`, injured in up to six places."""
    random = Random(seed)
    data = random.choice(corpus)
    if random.random() < 0.4:
        data = _mutated_json(data, random)
    for _ in range(random.choice((0, 1, 1, 2, 3, 6))):
        data = _injured(data, random)
    return data


def _injured(data: bytes, random: Random) -> bytes:
    at, other = random.randint(0, len(data)), random.randint(0, len(data))
    start, end = min(at, other), max(at, other)
    kind = random.randrange(7)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:start] + data[end:]
    if kind == 2:
        return data[:at] + data[start : start + 200] + data[at:]
    if kind == 3:
        return data[:at] + random.choice(NASTY) + data[at:]
    if kind == 4:
        return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
    if kind == 5:
        return data[:at] + random.choice(NASTY) + data[at + random.randint(1, 12) :]
    return data[:at] + random.randbytes(random.randint(1, 20)) + data[at:]


def _mutated_json(data: bytes, random: Random) -> bytes:
    """A JSON document, or one line of several, with some values exchanged for nasty ones."""
    lines = data.split(b"\n")
    index = random.randrange(len(lines))
    for found, wrap in ((data, None), (lines[index], index)):
        try:
            document = json.loads(found)
        except (ValueError, RecursionError):
            continue
        for _ in range(random.randint(1, 4)):
            document = _with_a_nasty_value(document, random)
        text = json.dumps(document).encode("utf-8", "surrogatepass")
        return text if wrap is None else b"\n".join((*lines[:wrap], text, *lines[wrap + 1 :]))
    return data


def _with_a_nasty_value(document: Any, random: Random) -> Any:
    """Walk down at random; where the walk ends, another value stands, is gone, or is doubled."""
    if isinstance(document, dict) and document and random.random() < 0.85:
        key = random.choice(list(document))
        if random.random() < 0.1:
            return {k: v for k, v in document.items() if k != key}
        return {**document, key: _with_a_nasty_value(document[key], random)}
    if isinstance(document, list) and document and random.random() < 0.85:
        index = random.randrange(len(document))
        if random.random() < 0.1:
            return document * 2
        return [
            _with_a_nasty_value(item, random) if i == index else item
            for i, item in enumerate(document)
        ]
    return random.choice(VALUES)
