"""From a request's JSON to Requests: inputs, limits and partners, refused as SGLang refuses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from pdctl.engines.sim import tokens
from pdctl.engines.sim.requests import Request
from pdctl.perf_model.records import EngineModel, Role

FAKE_BOOTSTRAP_HOST = "2.2.2.2"
DEFAULT_MAX_NEW = 128


class Refused(ValueError):
    """A request this engine answers with 400 and this sentence."""


@dataclass(frozen=True)
class Taken:
    """One request and what its answer depends on. bootstrap: host:port of its prefill engine."""

    request: Request
    seed: int
    bootstrap: str | None


def from_native(body: Mapping[str, Any], role: Role, model: EngineModel, port: int) -> list[Taken]:
    """The requests of a /generate body: one, or as many as its lists have."""
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
        _take(ids, _limit(p, "max_new_tokens", default=DEFAULT_MAX_NEW), bool(p.get("ignore_eos")))(
            rid, _partner(body, n, role, port), role, model
        )
        for n, (ids, p, rid) in enumerate(zip(prompts, each, rids, strict=True))
    ]


def is_batch(body: Mapping[str, Any]) -> bool:
    """Whether a /generate body asks for a list of answers."""
    ids = body.get("input_ids")
    return isinstance(body.get("text"), list) or bool(ids and isinstance(ids[0], list))


def from_openai(
    body: Mapping[str, Any], role: Role, model: EngineModel, port: int, *, is_chat: bool
) -> list[Taken]:
    """The requests of a completion or chat completion: prompts times n."""
    prompts = [_chat_prompt(body)] if is_chat else _completion_prompts(body)
    count = int(body.get("n") or 1)
    limit = _limit(body, "max_completion_tokens", "max_tokens", default=None if is_chat else 16)
    ignore_eos = bool(body.get("ignore_eos"))
    return [
        _take(ids, limit, ignore_eos)(None, _partner(body, n, role, port), role, model)
        for n, ids in enumerate(ids for ids in prompts for _ in range(count))
    ]


def _take(ids: Any, limit: int | None, ignore_eos: bool) -> Any:
    def build(
        rid: str | None, partner: tuple[str | None, int | None], role: Role, model: EngineModel
    ) -> Taken:
        length = len(ids)
        if not length:
            raise Refused("The prompt is empty.")
        longest = min(model.max_context - 1, model.kv_capacity_tokens - 1)
        if length >= longest:
            raise Refused(
                f"The input ({length} tokens) is longer than the model's context length "
                f"({min(model.max_context, model.kv_capacity_tokens)} tokens)."
            )
        seed = tokens.prompt_seed(ids)
        wanted = tokens.eos_length(seed) if limit is None else limit
        address, room = partner
        is_fake = address is not None and address.startswith(f"{FAKE_BOOTSTRAP_HOST}:")
        request = Request(
            rid=rid or uuid4().hex,
            prompt_tokens=length,
            max_new=1 if role == "prefill" else max(1, min(wanted, longest - length)),
            blocks=tokens.blocks_of(ids) if model.radix_cache else (),
            reason="stop" if limit is None else "length",
            ignore_eos=ignore_eos,
            room=room,
            fake=is_fake,
            is_ready=is_fake,
        )
        return Taken(request, seed, None if is_fake else address)

    return build


def _partner(
    body: Mapping[str, Any], n: int, role: Role, port: int
) -> tuple[str | None, int | None]:
    """The bootstrap address and room of the n-th request; colocated engines have none."""
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
        return [tokens.ids_of_text(str(one)) for one in texts]
    if not isinstance(ids, list) or not ids:
        raise Refused("Either text, input_ids or input_embeds should be provided.")
    return [_ids(one) for one in (ids if isinstance(ids[0], list) else [ids])]


def _completion_prompts(body: Mapping[str, Any]) -> list[Any]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [tokens.ids_of_text(prompt)]
    if not isinstance(prompt, list) or not prompt:
        raise Refused("prompt should be a string, a list of strings or token ids.")
    if isinstance(prompt[0], int):
        return [_ids(prompt)]
    return [tokens.ids_of_text(p) if isinstance(p, str) else _ids(p) for p in prompt]


def _chat_prompt(body: Mapping[str, Any]) -> Any:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("Messages cannot be empty.")
    return tokens.ids_of_text("".join(_said(message) for message in messages))


def _said(message: Any) -> str:
    if not isinstance(message, dict):
        raise Refused("A message should be an object with role and content.")
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return f"<|{message.get('role')}|>{content}\n"


def _ids(value: Sequence[int]) -> Any:
    try:
        return tokens.ids_of_list(value)
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
