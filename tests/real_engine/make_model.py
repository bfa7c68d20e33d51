"""Make a Llama of 281 KB whose greedy tokens depend on every token before them.

usage: make_model.py DIRECTORY [--layers=N] [--hidden=N]

Random weights with a wide spread do that; `--load-format dummy` answers every prompt alike, so a
lost KV cache would go unseen.
"""

import argparse
import importlib
from pathlib import Path
from typing import Any

VOCABULARY = 512
SPECIAL = ("<pad>", "<s>", "</s>")
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def make_weights(directory: Path, layers: int, hidden: int) -> None:
    """Layers of grouped-query attention, from a fixed seed."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(20)
    shape = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=2048,
        initializer_range=0.25,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    model = transformers.LlamaForCausalLM(shape).to(torch.bfloat16)
    model.save_pretrained(directory)


def make_tokenizer(directory: Path) -> None:
    """One token per byte."""
    tokenizers: Any = importlib.import_module("tokenizers")
    transformers: Any = importlib.import_module("transformers")
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    words = [*SPECIAL, *sorted(byte_level.alphabet())]
    vocabulary = {word: index for index, word in enumerate(words)}
    one_per_byte = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    one_per_byte.pre_tokenizer = byte_level(add_prefix_space=False)
    one_per_byte.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=one_per_byte, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("directory", type=Path)
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--hidden", type=int, default=64)
    given = options.parse_args()
    make_weights(given.directory, given.layers, given.hidden)
    make_tokenizer(given.directory)
