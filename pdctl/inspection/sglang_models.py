"""SGLang's own decisions by a model's architecture, which no config.json names.

Source: the files of the SGLang 0.5.23 wheel that each table names.
"""

READ_VERSION = "0.5.23"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Keeps and moves only the last window of window layers.
# Source: configs/model_config.py is_hybrid_swa_model; the last line, by their classes' own
# is_hybrid_swa: configs/dots3.py, iquest_q1.py, muse_spark.py and spark2_5.py
TRIMS_WINDOWS = _names("""
BeamForCausalLM Llama4ForConditionalGeneration DeepseekV4ForCausalLM
GptOssForCausalLM GraniteSWAForCausalLM GraniteMoeSWAForCausalLM IQuestQ1ForCausalLM
MiMoV2ForCausalLM MiMoV2FlashForCausalLM Step3p5ForCausalLM Step3p7ForConditionalGeneration
Gemma4ForCausalLM Gemma4ForConditionalGeneration Gemma4UnifiedForConditionalGeneration
DiffusionGemmaForBlockDiffusion LagunaForCausalLM MellumForCausalLM MuseGlimmerForCausalLM
MuseGlimmerForConditionalGeneration InklingForConditionalGeneration UnlimitedOCRForCausalLM
Dots3NoteForCausalLM MuseSparkForConditionalGeneration Spark2_5ForCausalLM
""")
# Requests one engine runs at most, whatever its memory holds.
# Source: arg_groups/deepseek_v4_hook.py
MOST_RUNNING = {"DeepseekV4ForCausalLM": 256}
# Tokens of a KV page where SGLang sets another than the backend's.
# Source: arg_groups/model_overrides/deepseek_v4.py
PAGE_TOKENS = {"DeepseekV4ForCausalLM": 256}
# Share of the full pool's tokens that the window pool gets (--swa-full-tokens-ratio).
# Source: arg_groups/model_overrides/deepseek_v4.py, inkling.py; fields/schedule.py has the default
WINDOW_POOL_SHARE = {"DeepseekV4ForCausalLM": 0.1, "InklingForConditionalGeneration": 0.1}
DEFAULT_WINDOW_POOL_SHARE = 0.8
# State slots a running request takes with a radix cache, by --mamba-radix-cache-strategy: three,
# and those it checkpoints into. Without a radix cache, as in decode engines, it takes one.
# Source: mem_cache/kv_cache_configurator.py _calculate_mamba_ratio, get_mamba_tracking_slots
SLOTS_PER_REQUEST = {"extra_buffer": 5, "extra_buffer_lazy": 4, "no_buffer": 3}
# "auto" takes extra_buffer for these, else no_buffer.
# Source: arg_groups/overrides.py _MAMBA_EXTRA_BUFFER_ARCHS
EXTRA_BUFFER = _names("""
KimiLinearForCausalLM KimiK3ForConditionalGeneration Qwen3NextForCausalLM
Qwen3_5ForCausalLM Qwen3_5MoeForCausalLM Qwen3_5ForConditionalGeneration
Qwen3_5MoeForConditionalGeneration Qwen4ExpForConditionalGeneration
InternS2PreviewForConditionalGeneration MiniCPMV4_6ForConditionalGeneration
MiniCPMV4_7ForConditionalGeneration BailingMoeV2_5ForCausalLM BailingMoeV3ForCausalLM
BailingMoeV3VLForConditionalGeneration FalconH1ForCausalLM GraniteMoeHybridForCausalLM
Glm5NextForConditionalGeneration NemotronHForCausalLM NemotronHPuzzleForCausalLM
NemotronH_Omni_Reasoning_V3 InklingForConditionalGeneration
""")
# State's share of the room, as a ratio to KV (--mamba-full-memory-ratio).
# Source: arg_groups/model_overrides/inkling.py; fields/schedule.py has the default
STATE_MEMORY_RATIO = {"InklingForConditionalGeneration": 0.1}
DEFAULT_STATE_MEMORY_RATIO = 0.9


def trims_windows(architecture: str) -> bool:
    """True if SGLang keeps only the last window of this architecture's window layers."""
    return architecture in TRIMS_WINDOWS


def most_running(architecture: str) -> int | None:
    """The cap SGLang sets on running requests of this architecture; None: none."""
    return MOST_RUNNING.get(architecture)


def page_tokens(architecture: str) -> int:
    """Tokens of a KV page that SGLang forces on this architecture; 1: it forces none."""
    return PAGE_TOKENS.get(architecture, 1)


def window_pool_share(architecture: str) -> float:
    """Tokens of the window pool per token of the full one."""
    return WINDOW_POOL_SHARE.get(architecture, DEFAULT_WINDOW_POOL_SHARE)


def state_memory_ratio(architecture: str) -> float:
    """Bytes of the state pool per byte of KV."""
    return STATE_MEMORY_RATIO.get(architecture, DEFAULT_STATE_MEMORY_RATIO)


def slots_per_request(architecture: str, *, radix_cache: bool) -> int:
    """State slots SGLang reserves per running request.

    Source: the tables above.
    Ignores: --mamba-radix-cache-strategy, --max-mamba-cache-size, speculative decoding, linear
    attention backends other than Triton.
    """
    if not radix_cache:
        return 1
    return SLOTS_PER_REQUEST["extra_buffer" if architecture in EXTRA_BUFFER else "no_buffer"]


# The models it has a class of its own for; what others do under Transformers is not known.
# Source: the EntryClass of each file of srt/models
SERVED = _names("""
AfmoeForCausalLM ApertusForCausalLM ArceeForCausalLM BaichuanForCausalLM
BailingMM2NativeForConditionalGeneration BailingMMNativeForConditionalGeneration
BailingMoEForCausalLM BailingMoeForCausalLM BailingMoeForCausalLMNextN BailingMoeV2ForCausalLM
BailingMoeV2_5ForCausalLM BailingMoeV3ForCausalLM BailingMoeV3VLForConditionalGeneration
BeamForCausalLM BertForSequenceClassification BertModel CLIPModel ChatGLMModel Cohere2ForCausalLM
Cohere2MoeForCausalLM Cohere2VisionForConditionalGeneration CohereForCausalLM Contriever
Cosmos3EdgeForConditionalGeneration Cosmos3ForConditionalGeneration DFlash2BeamDraftModel
DFlash2DraftModel DFlashDraftModel DFlashLagunaForCausalLM DSparkDraftModel DSparkMiniMaxDraftModel
DbrxForCausalLM DeciLMForCausalLM DeepseekForCausalLM DeepseekOCRForCausalLM DeepseekV2ForCausalLM
DeepseekV32ForCausalLM DeepseekV3ForCausalLM DeepseekV3ForCausalLMNextN DeepseekV4ForCausalLM
DeepseekV4ForCausalLMDSpark DeepseekV4ForCausalLMNextN DeepseekVL2ForCausalLM
DiffusionGemmaForBlockDiffusion Dots3NoteForCausalLM Dots3NoteForCausalLMNextN DotsOCRForCausalLM
DotsVLMForCausalLM Eagle3DeepseekV2ForCausalLM EmbeddingGemma2Model EmbeddingGemmaModel
Ernie4_5_ForCausalLM Ernie4_5_MoeForCausalLM Ernie4_5_MoeForCausalLMMTP
Ernie4_5_VLMoeForConditionalGeneration Exaone4ForCausalLM ExaoneForCausalLM ExaoneMoEForCausalLM
ExaoneMoEForCausalLMMTP ExaoneMoeForCausalLM FalconH1ForCausalLM FalconMambaForCausalLM
GPT2LMHeadModel GPTBigCodeForCausalLM GPTJForCausalLM Gemma2ForCausalLM
Gemma2ForSequenceClassification Gemma3ForCausalLM Gemma3ForConditionalGeneration Gemma3nForCausalLM
Gemma3nForConditionalGeneration Gemma4AssistantForCausalLM Gemma4ForCausalLM
Gemma4ForConditionalGeneration Gemma4UnifiedAssistantForCausalLM
Gemma4UnifiedForConditionalGeneration GemmaForCausalLM GigaChat35ForCausalLM
GigaChat35ForCausalLMNextN Glm4ForCausalLM Glm4MoeForCausalLM Glm4MoeForCausalLMNextN
Glm4MoeLiteForCausalLM Glm4MoeLiteForCausalLMNextN Glm4vForConditionalGeneration
Glm4vMoeForConditionalGeneration Glm5NextForConditionalGeneration
Glm5NextForConditionalGenerationNextN GlmAsrForConditionalGeneration
GlmImageForConditionalGeneration GlmMoeDsaForCausalLM GlmMoeDsaForCausalLMNextN
GlmOcrForConditionalGeneration GlmOcrForConditionalGenerationNextN GptOssForCausalLM
GraniteForCausalLM GraniteMoeForCausalLM GraniteMoeHybridForCausalLM GraniteMoeSWAForCausalLM
GraniteMoeSharedForCausalLM GraniteSWAForCausalLM Grok1ForCausalLM Grok1ModelForCausalLM
HYV3ForCausalLM HYV3ForCausalLMNextN HYV4ForCausalLM HYV4ForCausalLMNextN HrmTextForCausalLM
HunYuanDenseV1ForCausalLM HunYuanMoEV1ForCausalLM IQuestCoderForCausalLM IQuestLoopCoderForCausalLM
IQuestQ1ForCausalLM IQuestQ1MTP InklingForConditionalGeneration InklingForConditionalGenerationMTP
InternLM2ForCausalLM InternLM2ForRewardModel InternLM3ForCausalLM InternS1ForConditionalGeneration
InternS1ProForConditionalGeneration InternS2MobiusForConditionalGeneration
InternS2PreviewForConditionalGeneration InternVLChatModel JetNemotronForCausalLM
JetVLMForConditionalGeneration K2HorizonForCausalLM KimiK25ForConditionalGeneration
KimiK3ForConditionalGeneration KimiK3LinearForCausalLM KimiLinearForCausalLM
KimiVLForConditionalGeneration LLaDA2MoeModelLM LagunaForCausalLM Lfm2BidirectionalModel
Lfm2DSparkDraftModel Lfm2ForCausalLM Lfm2MoeForCausalLM Lfm2VlForConditionalGeneration
LiLiCorrDraftModel LightOnOCRForConditionalGeneration LingDSparkModel Llama4ForCausalLM
Llama4ForConditionalGeneration LlamaEmbeddingModel LlamaForCausalLM LlamaForCausalLMEagle
LlamaForCausalLMEagle3 LlamaForClassification LlamaForSequenceClassification
LlamaForSequenceClassificationWithNormal_Weights LlavaForConditionalGeneration LlavaLlamaForCausalLM
LlavaMistralForCausalLM LlavaQwenForCausalLM LlavaVidForCausalLM
LocateAnythingForConditionalGeneration LongcatFlashForCausalLM LongcatFlashForCausalLMNextN
Mamba2ForCausalLM MambaForCausalLM MellumForCausalLM MiDashengLMModel MiMoForCausalLM MiMoMTP
MiMoV2ASRForCausalLM MiMoV2FlashForCausalLM MiMoV2ForCausalLM MiMoV2MTP MindSporeForCausalLM
MiniCPM3ForCausalLM MiniCPMForCausalLM MiniCPMO MiniCPMSALAForCausalLM MiniCPMV
MiniCPMV4_6ForConditionalGeneration MiniCPMV4_7ForConditionalGeneration MiniMaxDFlash2DraftModel
MiniMaxM2ForCausalLM MiniMaxM3SparseForCausalLM MiniMaxM3SparseForConditionalGeneration
Ministral3ForCausalLM Mistral3ForConditionalGeneration MistralForCausalLM MistralForCausalLMEagle
MistralLarge3ForCausalLM MistralLarge3ForCausalLMEagle MistralModel MixtralForCausalLM
MllamaForConditionalGeneration MossVLForConditionalGeneration MultiModalityCausalLM
MuseGlimmerAssistantModel MuseGlimmerForCausalLM MuseGlimmerForConditionalGeneration
MuseSparkForConditionalGeneration NVILAForConditionalGeneration NVILALiteForConditionalGeneration
NanbeigeForCausalLM NanbeigeForSequenceClassification NemotronHForCausalLM NemotronHForCausalLMMTP
NemotronHPuzzleForCausalLM NemotronH_Nano_Omni_Reasoning_V3 NemotronH_Nano_VL_V2
NemotronH_Omni_Reasoning_V3 OPTForCausalLM Olmo2ForCausalLM OlmoForCausalLM OlmoeForCausalLM
OrionForCausalLM POINTSV15ChatModel PaddleOCRVLForConditionalGeneration PersimmonForCausalLM
Phi3ForCausalLM Phi3SmallForCausalLM Phi4MMForCausalLM PhiForCausalLM PhiMoEForCausalLM
PixtralForConditionalGeneration PixtralVisionModel QWenLMHeadModel QuantMixtralForCausalLM
Qwen2AudioForConditionalGeneration Qwen2ForCausalLM Qwen2ForCausalLMEagle Qwen2ForRewardModel
Qwen2ForSequenceClassification Qwen2MoeForCausalLM Qwen2VLForConditionalGeneration
Qwen2_5_VLForConditionalGeneration Qwen3ASRForConditionalGeneration Qwen3DSparkModel
Qwen3ForCausalLM Qwen3ForRewardModel Qwen3ForSequenceClassification Qwen3Model Qwen3MoeForCausalLM
Qwen3MoeForCausalLMMTP Qwen3NextForCausalLM Qwen3NextForCausalLMMTP
Qwen3OmniMoeForConditionalGeneration Qwen3VLForConditionalGeneration
Qwen3VLMoeForConditionalGeneration Qwen3_5ForCausalLM Qwen3_5ForCausalLMMTP
Qwen3_5ForConditionalGeneration Qwen3_5MoeForCausalLM Qwen3_5MoeForConditionalGeneration
Qwen4ExpForCausalLMMTP Qwen4ExpForConditionalGeneration SDARForCausalLM SDARMoeForCausalLM
Sarashina2VisionForCausalLM SarvamMLAForCausalLM SarvamMoEForCausalLM SolarForCausalLM
Spark2_5ForCausalLM StableLmForCausalLM Starcoder2ForCausalLM Step3VLForConditionalGeneration
Step3p5ForCausalLM Step3p5MTP Step3p7ForConditionalGeneration StepVLForConditionalGeneration
TeleFLMForCausalLM TorchNativeLlamaForCausalLM TorchNativePhi3ForCausalLM TransformersEmbeddingModel
TransformersForCausalLM TransformersForSequenceClassification TransformersMoEEmbeddingModel
TransformersMoEForCausalLM TransformersMoEForSequenceClassification
TransformersMultiModalEmbeddingModel TransformersMultiModalForCausalLM
TransformersMultiModalForSequenceClassification TransformersMultiModalMoEEmbeddingModel
TransformersMultiModalMoEForCausalLM TransformersMultiModalMoEForSequenceClassification
UnlimitedOCRForCausalLM VoxtralForConditionalGeneration WhisperForConditionalGeneration
XLMRobertaForSequenceClassification XLMRobertaModel XllmForCausalLM XverseForCausalLM
XverseMoeForCausalLM YiVLForCausalLM ZayaForCausalLM
""")


def is_served(architecture: str) -> bool:
    """True if SGLang has a class of this name, by one of the tables above."""
    return any(architecture in names for names in (SERVED, EXTRA_BUFFER, TRIMS_WINDOWS))
