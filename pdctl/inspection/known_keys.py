"""Architectures that pdctl has read right, and the keys of config.json that say nothing more."""

import re

_KNOWN = """
llama mistral mixtral ministral3 mistral3 llama4 llama4_text
qwen2 qwen2_moe qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text qwen3 qwen3_moe qwen3_next
qwen3_vl qwen3_vl_text qwen3_vl_moe qwen3_vl_moe_text
qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text
deepseek_v2 deepseek_v3 deepseek_v32 kimi_k2 kimi_k25 gpt_oss
glm4 glm4_moe glm4_moe_lite glm_moe_dsa gemma gemma2 gemma3 gemma3_text phi phi3 phimoe
minimax_m2 olmo2 olmo3 olmoe granite granitemoe exaone4 ernie4_5 ernie4_5_moe
internlm2 internlm3 seed_oss hunyuan_v1_moe cohere cohere2 starcoder2 mimo mimo_v2_flash
opt gpt2 gpt_neox nemotron
deepseek_v4 deepseek_ref kimi_k3 minimax_m3 minimax_m3_vl gemma4
gemma4_text gemma3n gemma3n_text mistral4 mistral_large_3 kimi_linear
nemotron_h nemotron-nas deci granitemoehybrid falcon_h1 bamba jamba lfm2 lfm2_moe
step3p5 step3p7 minimax minimax_text_01 bailing_moe bailing_moe_v2 bailing_hybrid
dots1 longcat_flash hunyuan_v1_dense hy_v3 exaone_moe llama4_moe qwen3_omni_moe
mimo_v2 glm4v glm4v_moe glm4_moe_v glm4v_text glm4v_moe_text glm_5 internvl internvl_chat
arcee apertus apertus1p5_text smollm3 kimi_vl ernie4_5_moe_vl ernie4_5_vl_moe
afmoe laguna mellum beam lfm3 olmo olmo_hybrid flex_olmo bitnet stablelm youtu minicpm3 hyperclovax
granite_swa granitemoe_swa granitemoeshared glm vaultgemma exaone emu3_text_model iquestcoder
aria_text sarvam_moe sarvam_mla solar_open axk1 cohere2_moe cwm helium diffllama hy_v4
dots3_note dots3_note_text gemma4_unified gemma4_unified_text minimax_m3_vl_text jais2 nanochat
persimmon step3_text
baichuan chatglm orion xverse minicpm hunyuan dots_ocr phi4mm yi_vl qwen dbrx grok-1 phi3small
gptj gpt_bigcode bloom mpt falcon qwen3_omni qwen2_5_omni bailing_moe_linear
glm_ocr paddleocr muse_spark muse_glimmer kolibri1 flint lara_mini cosmos3_edge granite_docling
molmo2 phi4_multimodal glm5_next mistral_large4 mllama_text_model unlimited_ocr
"""
_KNOWN_TYPES = frozenset(_KNOWN.split())
_PART_OF = re.compile(r"(_vl|_moe|_thinker|_text|_model)+$")
# Source: defaults of transformers 5.24's configuration classes, for files that leave the key out
_TIED = """
gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text gemma4 gemma4_text gemma4_unified
gemma4_unified_text vaultgemma cohere cohere2 cohere2_moe ernie4_5 ernie4_5_moe granite_swa
lfm2 lfm2_moe lfm3 minicpm3 smollm3 starcoder2 youtu gpt2 opt gpt_bigcode bloom mpt falcon
phi3small
"""
TIED_BY_DEFAULT = frozenset(_TIED.split())
# Their MLPs have two matrices, whatever activation the file names.
_UNGATED = """
gpt2 opt gpt_neox phi starcoder2 nemotron nemotron_h arcee apertus apertus1p5_text jais2 nanochat
persimmon gptj gpt_bigcode codegen gpt_neo gpt_neox_japanese bloom mpt falcon
"""
UNGATED_MLP = frozenset(_UNGATED.split())
# Words in a key that make it look like a part of the shape, and words that say it is none.
_STRUCTURAL = """
layer expert head latent rank window chunk kernel state dim compress block pattern index conv moe
mamba linear interval loop period hidden intermediate width shared group
"""
STRUCTURAL = tuple(_STRUCTURAL.split())
_HARMLESS = """
loss time_step attn_res norm act dtype eps init token_id output_hidden rope scal theta
prediction nextn mtp
vision audio mm_ embd_layer lora
_dropout chunk_size_feed topk_group n_group num_expert_group router_ aux prun output_
max_window_layers auto_map id2label
"""
HARMLESS = tuple(_HARMLESS.split())
# Keys that repeat what others say, or that no figure follows from.
_IDLE = """
num_key_value_heads head_dim qk_head_dim sliding_window sliding_window_size attention_chunk_size
moe_capacity num_key_value_heads_for_linear_attn compression_config
full_attention_interval num_hash_layers index_topk_freq index_topk_pattern index_skip_topk_offset
index_share_for_mtp_iteration moe_layer_freq mamba_chunk_size chunk_size mamba_expand expand
num_beam_groups rotary_dim rotary_emb_base mlp_layer_types first_k_dense_replace layer_types
swa_head_dim swa_num_attention_heads moe_every_n_layers initial_context_length intermediate_size
num_hidden_layers vocab_size image_token_index video_token_index interleave_moe_layer_step
decoder_sparse_step num_attention_heads max_expert_parallel use_cla cla_share_factor
num_nextn_predict_layers num_mtp_modules mtp_transformer_layers moe_intermediate_size
no_rope_layer_interval no_rope_layers architectures max_position_embeddings window_size
head_wise_attn_gate shared_intermediate_size hybrid_override_pattern norm_after_attn
linear_attn_config num_global_key_value_heads global_head_dim tie_word_embeddings hidden_size
linear_conv_kernel_dim torch_dtype kv_channels qkv_clip sliding_window_pattern gating_layer
pad_head_dim_to_multiple_of_n _sliding_window_pattern global_attn_every_n_layers full_attn_idxs
conv_L_cache block_multiple_of block_size laurel_rank
prefix_dense_sliding_window_pattern word_embed_proj_dim dim_model_base layer_group_size
mtp_layers_block_type use_attention_gate use_head_wise_attn_gate num_sliding_attention_heads
"""
IDLE = frozenset(_IDLE.split())
# Keys a config.json leaves out because its class has them as constants or defaults, by family.
_DEFAULTS: dict[str, dict[str, int | bool]] = {
    "qwen3_next": {"attn_output_gate": True},
    "qwen3_5": {"attn_output_gate": True},
    "afmoe": {"attn_output_gate": True},
    "beam": {"attn_output_gate": True},
    "hy_v4": {"mla_use_output_gate": True},
    "muse_spark": {"attn_output_gate": True},
    "muse_glimmer": {"attn_output_gate": True},
    "gemma4_text": {"sliding_window_pattern": 6},
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "sliding_window_pattern": 6,
    },
    "gemma2": {"sliding_window_pattern": 2},
    "cohere2": {"sliding_window_pattern": 4},
}
# The sizes of language models that the configs of vision and audio models leave out, since the
# class has them. Source: transformers 5.24's configuration classes.
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_NESTED = {
    "llama": (4096, 11008, 32, 32, None, 32000),
    "mistral": (4096, 14336, 32, 32, 8, 32000),
    "mixtral": (4096, 14336, 32, 32, 8, 32000),
    "qwen2": (4096, 22016, 32, 32, 32, 151936),
    "gemma": (3072, 24576, 28, 16, 16, 256000),
    "gemma2": (2304, 9216, 26, 8, 4, 256000),
}


def _family(model_type: str) -> str:
    """The family of a model type: without the words for one part of a multimodal model."""
    return _PART_OF.sub("", model_type)


def is_known(model_type: str) -> bool:
    """True if pdctl has read models of this type, or of its family, right."""
    return bool({model_type, _family(model_type)} & _KNOWN_TYPES)


def defaults(model_type: str, *, nested: bool) -> dict[str, int | bool]:
    """The values that a class gives to keys which its config.json leaves out.

    nested: the language model's object inside a multimodal model's config.
    """
    sizes = zip(_SIZES, _NESTED.get(model_type, ()), strict=False) if nested else ()
    own = _DEFAULTS.get(model_type, _DEFAULTS.get(_family(model_type), {}))
    return {**{key: size for key, size in sizes if size is not None}, **own}


def says_shape(key: str, value: object) -> bool:
    """Is this key named like a part of the shape, with a value that could be one?"""
    if value is True and key not in IDLE and "gat" in key and ("attn" in key or "attention" in key):
        return True  # a gate on attention has a matrix
    if value in (None, False, 0, "", [], {}) or isinstance(value, float | bool) or key in IDLE:
        return False
    if isinstance(value, str) and not any(word in key for word in ("pattern", "layer", "enum")):
        return False
    named = any(word in key for word in STRUCTURAL)
    return named and not any(word in key for word in HARMLESS)
