"""Kernels without a tuned configuration, from the beginning of engines' logs."""

from itertools import repeat

from pdctl.engines.untuned_kernels import MOST_LINES, untuned

MOE = (
    b"[2026-11-28 09:42:18 TP0] Using default MoE kernel config. Performance might be sub-optimal! "
    b"Config file not found at /sglang/srt/layers/moe/fused_moe_triton/configs/triton_3_4_0/"
    b"E=128,N=768,device_name=NVIDIA_L40S.json, you can create them with https://github.com/x\n"
)
FP8 = (
    b"[2026-11-28 09:42:18] Using default W8A8 Block FP8 kernel config. Performance might be "
    b"sub-optimal! Config file not found at /a/N=4096,K=7168,device_name=NVIDIA_L40S.json\n"
)
OTHER = b"[2026-11-28 09:42:18] Load weight begin. avail mem=43.61 GB\n"


def test_engines_with_the_same_untuned_kernels_share_a_sentence() -> None:
    logs = {"prefill-0": [OTHER, MOE, MOE], "decode-0": [MOE], "decode-1": [MOE, FP8]}
    moe, fp8 = untuned(logs)
    assert moe == (
        "prefill-0 and 2 more engines run untuned MoE kernels: "
        "SGLang has no E=128,N=768,device_name=NVIDIA_L40S.json."
    )
    assert fp8.startswith("decode-1 runs untuned W8A8 Block FP8 kernels")


def test_tuned_engines_get_no_sentence_and_long_logs_are_not_read_to_their_end() -> None:
    assert untuned({"decode-0": [OTHER]}) == ()
    lines = repeat(OTHER, 2 * MOST_LINES)
    assert untuned({"decode-0": lines}) == ()
    assert sum(1 for _ in lines) == MOST_LINES
