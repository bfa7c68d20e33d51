"""Releases that share a bundled shape. Exact names only: nothing is cut off a name but a format.

A line gives a bundled shape and its releases, in lower case and without the organisation;
@ gives the context of a release that has another than the shape.
"""

from functools import cache
from typing import NamedTuple

_RELEASES = """
llama-3.1-8b: meta-llama-3.1-8b meta-llama-3.1-8b-instruct llama-3.1-8b-instruct
llama-3.1-70b: meta-llama-3.1-70b meta-llama-3.1-70b-instruct llama-3.1-70b-instruct
llama-3.1-70b: llama-3.3-70b llama-3.3-70b-instruct
llama-4-scout: llama-4-scout-17b-16e llama-4-scout-17b-16e-instruct
llama-4-maverick: llama-4-maverick-17b-128e llama-4-maverick-17b-128e-instruct
qwen3-8b: qwen3-8b-base
qwen3-30b-a3b: qwen3-30b-a3b-base qwen3-30b-a3b-instruct-2507@262144
qwen3-30b-a3b: qwen3-30b-a3b-thinking-2507@262144 qwen3-coder-30b-a3b-instruct@262144
qwen3-235b-a22b: qwen3-235b-a22b-instruct-2507@262144 qwen3-235b-a22b-thinking-2507@262144
qwen3-coder-480b-a35b: qwen3-coder-480b-a35b-instruct
qwen3-next-80b-a3b: qwen3-next-80b-a3b-instruct qwen3-next-80b-a3b-thinking
qwen3-next-80b-a3b: qwen3-coder-next
qwen3-vl-235b-a22b: qwen3-vl-235b-a22b-instruct qwen3-vl-235b-a22b-thinking
qwen3-vl-30b-a3b: qwen3-vl-30b-a3b-instruct qwen3-vl-30b-a3b-thinking
qwen3-vl-32b: qwen3-vl-32b-instruct qwen3-vl-32b-thinking
qwen3-vl-8b: qwen3-vl-8b-instruct qwen3-vl-8b-thinking
deepseek-v3: deepseek-v3-base deepseek-v3-0324 deepseek-v3.1 deepseek-v3.1-base
deepseek-v3: deepseek-v3.1-terminus
deepseek-r1: deepseek-r1-0528 deepseek-r1-zero
deepseek-v3.2: deepseek-v3.2-exp deepseek-v3.2-speciale
kimi-k2: kimi-k2-instruct kimi-k2-base kimi-k2-instruct-0905@262144
kimi-k2.5: kimi-k2.6
kimi-k2.5-nvfp4: kimi-k2.6-nvfp4
kimi-linear-48b-a3b: kimi-linear-48b-a3b-instruct kimi-linear-48b-a3b-base
glm-4.5: glm-4.5-base
glm-4.5-air: glm-4.5-air-base
glm-4.7: glm-4.6
glm-5: glm-5.1
glm-5-fp8: glm-5.1-fp8
minimax-m2.5: minimax-m2 minimax-m2.1 minimax-m2.7
minimax-m2.5-nvfp4: minimax-m2.7-nvfp4
nemotron-3-nano-30b-a3b: nvidia-nemotron-3-nano-30b-a3b-bf16
nemotron-3-nano-30b-a3b: nvidia-nemotron-3-nano-30b-a3b
nemotron-3-nano-30b-a3b-nvfp4: nvidia-nemotron-3-nano-30b-a3b-nvfp4
nemotron-3-super-120b-a12b: nvidia-nemotron-3-super-120b-a12b-bf16
nemotron-3-super-120b-a12b: nvidia-nemotron-3-super-120b-a12b
nemotron-3-super-120b-a12b-fp8: nvidia-nemotron-3-super-120b-a12b-fp8
nemotron-3-super-120b-a12b-nvfp4: nvidia-nemotron-3-super-120b-a12b-nvfp4
nemotron-3-ultra-550b-a55b-nvfp4: nvidia-nemotron-3-ultra-550b-a55b-nvfp4
nemotron-3.5-lightning-30b-a3b-nvfp4: nvidia-nemotron-3.5-lightning-30b-a3b-nvfp4
gemma-4-31b: gemma-4-31b-it
gemma-4-26b-a4b: gemma-4-26b-a4b-it
gemma-3-27b: gemma-3-27b-it gemma-3-27b-pt
mistral-small-4-119b: mistral-small-4-119b-2603
mistral-small-3.2-24b: mistral-small-3.2-24b-instruct-2506
mistral-small-3.2-24b: mistral-small-3.1-24b-instruct-2503
mixtral-8x7b: mixtral-8x7b-v0.1 mixtral-8x7b-instruct-v0.1
granite-4.0-h-small: granite-4.0-h-small-base
ernie-4.5-21b-a3b: ernie-4.5-21b-a3b-pt ernie-4.5-21b-a3b-base-pt ernie-4.5-21b-a3b-thinking
hunyuan-a13b: hunyuan-a13b-instruct hunyuan-a13b-pretrain
"""
# What a quantised release of a shape adds to its name; the shape must be one of 16 or 8 bits
FORMATS = (
    "fp8",
    "fp8-block",
    "fp8-dynamic",
    "nvfp4",
    "fp4",
    "awq",
    "gptq",
    "gptq-int4",
    "int4",
    "w4a16",
    "quantized.w4a16",
)


class Release(NamedTuple):
    """A bundled shape, with what the release changes of it."""

    shape: str
    max_context: int | None = None
    quantised_as: str | None = None


def release(name: str, shapes: tuple[str, ...]) -> Release | None:
    """The bundled shape that `name`, without its organisation, is a release of; else None."""
    plain = name.lower()
    known = _exact(plain, shapes)
    if known is not None:
        return known
    for form in sorted(FORMATS, key=len, reverse=True):
        if plain.endswith(f"-{form}"):
            base = _exact(plain[: -len(form) - 1], shapes)
            return base._replace(quantised_as=form) if base else None
    return None


def _exact(plain: str, shapes: tuple[str, ...]) -> Release | None:
    return Release(plain) if plain in shapes else _table().get(plain)


@cache
def _table() -> dict[str, Release]:
    found = {}
    for line in _RELEASES.strip().splitlines():
        shape, names = line.split(": ")
        for name in names.split():
            plain, _, context = name.partition("@")
            found[plain] = Release(shape, int(context) if context else None)
    return found
