"""Requests and batches of a simulated engine, and the parsing of request bodies."""

import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

from pdctl.perf_model.records import EngineModel, Role

Reason = Literal["length", "stop", "abort"]
# moments of a request, as SGLang's time stats have them: in the scheduler, its partner known, KV
# allocated, KV sent or received, first batch, and the end of its prefill
Moment = Literal["entry", "bootstrapped", "allocated", "transferred", "started", "computed"]

BLOCK_TOKENS = 16  # of the prefix cache
BYTES_PER_TEXT_TOKEN = 4  # a text prompt counts as one token per four bytes
FAKE_BOOTSTRAP_HOST = "2.2.2.2"
DEFAULT_MAX_NEW = 128
_VOCABULARY = 32_000
_WORDS = "the of and to in is that for it as was with be by on not he his but at are this"
_PIECES = tuple(f" {word}" for word in _WORDS.split())


@dataclass(eq=False, slots=True)
class Request:
    """One request inside one engine. Mutable: the queues update it.

    out: tokens whose step has ended. launched: tokens whose step has at least begun.
    own_tokens: KV held by this request alone, in addition to `num_locked` cached blocks.
    credit: the part of a token that its steps have gained beyond whole ones.
    Times are model seconds on the engine's clock.
    """

    rid: str
    prompt_tokens: int
    max_new: int
    blocks: Sequence[int] = ()
    reason: Reason = "length"  # why it ends after max_new tokens
    ignore_eos: bool = True
    room: int | None = None
    rank: int = 0  # of the engine's attention-DP
    fake: bool = False  # without a partner: its KV moves instantly
    on_tokens: Callable[[int, Reason | None], None] | None = None
    arrived_s: float = 0.0
    out: int = 0
    launched: int = 0
    done: int = 0  # leading tokens whose KV exists or is being computed
    cached_tokens: int = 0
    own_tokens: int = 0
    credit: float = 0.0
    num_locked: int = 0
    retractions: int = 0
    is_ready: bool = False  # the partner is known and has accepted the room
    is_transferred: bool = False
    is_done: bool = False
    failure: tuple[int, str] | None = None  # HTTP status and message of an aborted request
    first_s: float = 0.0
    last_s: float = 0.0
    queued_s: float = 0.0  # when it entered its current queue
    waited_s: float = 0.0
    forward_s: float = 0.0
    transfer_start_s: float = 0.0
    transfer_end_s: float = 0.0
    moments: dict[Moment, float] = field(default_factory=dict)

    def reached(self, moment: Moment, now_s: float) -> None:
        """Note the time of a moment, unless the request has been there before."""
        self.moments.setdefault(moment, now_s)

    @property
    def prompt(self) -> int:
        """Tokens that must be in KV before the next token can be computed."""
        return self.prompt_tokens + self.out

    @property
    def left(self) -> int:
        """Output tokens still to come."""
        return self.max_new - self.out


@dataclass(frozen=True, slots=True)
class PrefillPart:
    """New tokens of one request in a prefill batch. is_final: the prompt ends with them."""

    request: Request
    tokens: int
    is_final: bool


@dataclass(slots=True)
class Batch:
    """One forward pass: prefill parts, decode rows, or in a mixed batch both.

    gains: tokens that each row gains: one, or more with speculative decoding.
    """

    parts: list[PrefillPart]
    rows: list[Request]
    duration_s: float
    gains: list[int] = field(default_factory=list)
    launched_s: float = 0.0
    end_s: float = 0.0

    @property
    def new_tokens(self) -> int:
        return sum(part.tokens for part in self.parts)

    @property
    def num_gained(self) -> int:
        """Output tokens of the decode rows."""
        return sum(self.gains)


@dataclass(frozen=True, slots=True)
class Emission:
    """New tokens of a request that leave the engine. reason: why it ended; None: it goes on."""

    request: Request
    tokens: int
    reason: Reason | None


@dataclass(slots=True)
class SchedulerPass:
    """Outcome of one scheduler pass. allocated: decode requests whose partner may start."""

    batch: Batch | None = None
    emissions: list[Emission] = field(default_factory=list)
    allocated: list[Request] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """Outcome of an ended batch. transfers: prefill requests whose KV is on its way."""

    emissions: list[Emission] = field(default_factory=list)
    transfers: list[Request] = field(default_factory=list)


@dataclass(frozen=True)
class Queues:
    """Number of requests in each waiting place, as SGLang names them."""

    role: Role
    running: int = 0
    waiting: int = 0
    bootstrap: int = 0
    inflight: int = 0
    prealloc: int = 0
    transfer: int = 0
    retracted: int = 0

    @property
    def num_waiting(self) -> int:
        """`num_waiting_reqs` of /v1/loads, which counts all queues before the forward pass."""
        if self.role == "prefill":
            return self.waiting + self.bootstrap
        return self.waiting + self.prealloc + self.transfer + self.retracted


def ids_of_text(text: str) -> "array[int]":
    """Token ids for a text: its UTF-8 bytes, four to a token."""
    data = text.encode()
    padding = -len(data) % BYTES_PER_TEXT_TOKEN
    ids = array("I")
    ids.frombytes(data + b"\0" * padding)
    return ids


def ids_of_list(ids: Sequence[int]) -> "array[int]":
    """`ids` as an array. Raises TypeError, OverflowError or ValueError unless all are token ids."""
    return array("I", ids)


def prompt_seed(ids: "array[int]") -> int:
    """Seed of the answer to a prompt. Equal prompts get equal answers from every engine."""
    return zlib.crc32(ids.tobytes())


def token(seed: int, position: int) -> int:
    """The output token at `position`, counted from 0."""
    mixed = (seed ^ (position * 0x9E3779B1)) & 0xFFFFFFFF
    mixed = (mixed ^ (mixed >> 15)) * 0x85EBCA6B & 0xFFFFFFFF
    return 256 + (mixed ^ (mixed >> 13)) % (_VOCABULARY - 256)


def piece(token_id: int) -> str:
    """The text of a token. Contains no character that JSON escapes."""
    return _PIECES[token_id % len(_PIECES)]


def block_hashes(ids: "array[int]") -> list[int]:
    """Chained hashes of a prompt's full blocks. Equal leading hashes mean equal prefixes."""
    data = ids.tobytes()
    size = BLOCK_TOKENS * ids.itemsize
    chain = 0
    blocks = []
    for start in range(0, len(data) - size + 1, size):
        chain = hash((chain, data[start : start + size]))
        blocks.append(chain)
    return blocks


def eos_length(seed: int) -> int:
    """Length of an answer that no limit ends."""
    return 64 + seed % 193


class Refused(ValueError):
    """A request that this engine refuses with HTTP 400 and this sentence."""


@dataclass(frozen=True)
class AcceptedRequest:
    """A request and the seed of its answer. bootstrap: host:port of its prefill engine."""

    request: Request
    seed: int
    bootstrap: str | None


def from_native(
    body: Mapping[str, Any], role: Role, model: EngineModel, port: int
) -> list[AcceptedRequest]:
    """The requests in a /generate body: one, or one per element of its lists."""
    prompts = _native_prompts(body)
    params = body.get("sampling_params") or {}
    if isinstance(params, list):
        if len(params) != len(prompts):
            raise Refused("The length of sampling_params should be equal to the batch size.")
        each = params
    else:
        each = [params] * len(prompts)
    rids = _spread(body.get("rid"), len(prompts))
    return [
        _accepted(
            ids,
            _limit(p, "max_new_tokens", default=DEFAULT_MAX_NEW),
            rid=rid,
            ignore_eos=bool(p.get("ignore_eos")),
            partner=_partner(body, n, role, port),
            role=role,
            model=model,
        )
        for n, (ids, p, rid) in enumerate(zip(prompts, each, rids, strict=True))
    ]


def is_batch(body: Mapping[str, Any]) -> bool:
    """True if a /generate body asks for a list of answers."""
    ids = body.get("input_ids")
    return isinstance(body.get("text"), list) or bool(ids and isinstance(ids[0], list))


def from_openai(
    body: Mapping[str, Any], role: Role, model: EngineModel, port: int, *, is_chat: bool
) -> list[AcceptedRequest]:
    """The requests in a completion or chat completion body: prompts times n."""
    prompts = [_chat_prompt(body)] if is_chat else _completion_prompts(body)
    count = int(body.get("n") or 1)
    limit = _limit(body, "max_completion_tokens", "max_tokens", default=None if is_chat else 16)
    ignore_eos = bool(body.get("ignore_eos"))
    return [
        _accepted(
            ids,
            limit,
            rid=None,
            ignore_eos=ignore_eos,
            partner=_partner(body, n, role, port),
            role=role,
            model=model,
        )
        for n, ids in enumerate(ids for ids in prompts for _ in range(count))
    ]


def _accepted(
    ids: "array[int]",
    limit: int | None,
    *,
    rid: str | None,
    ignore_eos: bool,
    partner: tuple[str | None, int | None],
    role: Role,
    model: EngineModel,
) -> AcceptedRequest:
    length = len(ids)
    if not length:
        raise Refused("The prompt is empty.")
    longest = min(model.max_context - 1, model.kv_capacity_tokens - 1)
    if length >= longest:
        raise Refused(
            f"The input ({length} tokens) is longer than the model's context length "
            f"({min(model.max_context, model.kv_capacity_tokens)} tokens)."
        )
    seed = prompt_seed(ids)
    wanted = eos_length(seed) if limit is None else limit
    address, room = partner
    is_fake = address is not None and address.startswith(f"{FAKE_BOOTSTRAP_HOST}:")
    request = Request(
        rid=rid or uuid4().hex,
        prompt_tokens=length,
        max_new=1 if role == "prefill" else max(1, min(wanted, longest - length)),
        blocks=block_hashes(ids) if model.radix_cache else (),
        reason="stop" if limit is None else "length",
        ignore_eos=ignore_eos,
        room=room,
        fake=is_fake,
        is_ready=is_fake,
    )
    return AcceptedRequest(request, seed, None if is_fake else address)


def _partner(
    body: Mapping[str, Any], n: int, role: Role, port: int
) -> tuple[str | None, int | None]:
    """Bootstrap address and room of the n-th request. Colocated engines have neither."""
    if role == "colocated":
        return None, None
    room = _nth(body.get("bootstrap_room"), n)
    if not isinstance(room, int):
        raise Refused("Disaggregated request received without bootstrap room id.")
    host = _nth(body.get("bootstrap_host"), n) or FAKE_BOOTSTRAP_HOST
    given = _nth(body.get("bootstrap_port"), n)
    return f"{host}:{given if given is not None else port}", room


def _nth(value: Any, n: int) -> Any:
    if isinstance(value, list):
        return value[n] if n < len(value) else None
    return value


def _spread(value: Any, count: int) -> list[str | None]:
    if isinstance(value, list):
        return [str(v) for v in value[:count]] + [None] * (count - len(value))
    return [str(value) if value and count == 1 else None] * count


def _native_prompts(body: Mapping[str, Any]) -> list[Any]:
    text, ids = body.get("text"), body.get("input_ids")
    if text is not None:
        texts = text if isinstance(text, list) else [text]
        return [ids_of_text(str(one)) for one in texts]
    if not isinstance(ids, list) or not ids:
        raise Refused("Either text, input_ids or input_embeds should be provided.")
    return [_ids(one) for one in (ids if isinstance(ids[0], list) else [ids])]


def _completion_prompts(body: Mapping[str, Any]) -> list[Any]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [ids_of_text(prompt)]
    if not isinstance(prompt, list) or not prompt:
        raise Refused("prompt should be a string, a list of strings or token ids.")
    if isinstance(prompt[0], int):
        return [_ids(prompt)]
    return [ids_of_text(p) if isinstance(p, str) else _ids(p) for p in prompt]


def _chat_prompt(body: Mapping[str, Any]) -> Any:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("Messages cannot be empty.")
    return ids_of_text("".join(_said(message) for message in messages))


def _said(message: Any) -> str:
    if not isinstance(message, dict):
        raise Refused("A message should be an object with role and content.")
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return f"<|{message.get('role')}|>{content}\n"


def _ids(value: Sequence[int]) -> Any:
    try:
        return ids_of_list(value)
    except (TypeError, ValueError, OverflowError) as problem:
        raise Refused(f"input_ids should be a list of token ids: {problem}.") from problem


def _limit(params: Mapping[str, Any], *names: str, default: int | None) -> int | None:
    for name in names:
        value = params.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or value < 0:
            raise Refused(f"{name} must be at least 0, got {value}.")
        return value
    return default
