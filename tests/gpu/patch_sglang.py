"""Patch an unpacked SGLang 0.5.17 for measurements with dummy weights.

    python -m tests.gpu.patch_sglang SITE_PACKAGES

With DUMMY_AS_REAL set, norm weights are 1 and the expert correction bias is 0, so that a router
chooses different experts for different tokens. The multicast gather of logits is turned off.
"""

import sys
from pathlib import Path

WEIGHTS = "sglang/srt/model_loader/weight_utils.py"
GATHER = "sglang/srt/distributed/device_communicators/triton_symm_mem_ag.py"
LOOP = "    for param in model.state_dict().values():\n"
FIRST = "        if torch.is_floating_point(param):\n            generator"
REAL = """\
    for name, param in model.state_dict().items():
        if os.environ.get("DUMMY_AS_REAL") and name.endswith("e_score_correction_bias"):
            param.zero_()
            continue
        if os.environ.get("DUMMY_AS_REAL") and "norm" in name and param.dim() == 1:
            param.fill_(1)
            continue
"""
CHOICE = "self._state = self._UNINIT if enabled else None"


def patched(text: str, old: str, new: str) -> str:
    """`text` with `old` replaced. Raises ValueError unless `old` occurs exactly once."""
    if text.count(old) != 1:
        raise ValueError(f"{text.count(old)} occurrences of {old.strip()[:60]!r}, not one")
    return text.replace(old, new)


def main() -> None:
    """Patch both files."""
    site = Path(sys.argv[1])
    changes = ((WEIGHTS, LOOP + FIRST, REAL + FIRST), (GATHER, CHOICE, "self._state = None"))
    for name, old, new in changes:
        path = site / name
        path.write_text(patched(path.read_text(), old, new))


if __name__ == "__main__":
    main()
