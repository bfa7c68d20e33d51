"""What unmodified SGLang 0.5.23 lacks on a machine without a GPU.

Imported at every start of the interpreter it is installed for (the .pth file beside it), so it
imports nothing heavy itself. SGLang calls `patch_transfer` in each of its processes.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

DROP_KV = "PDCTL_TEST_DROP_KV"  # set to 1, KV is never sent: what a test must notice

_kept: list[Any] = []  # torch forgets operators whose library is no longer referred to


class _BeforeTorchvision:
    """Defines the operators torchvision describes, just before it is imported.

    Its compiled half is built for CUDA and does not load beside a CPU torch; importing the Python
    half then fails on two operators that nobody has defined.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None always: finding torchvision is left to the others."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            torch: Any = importlib.import_module("torch")
            operators = torch.library.Library("torchvision", "FRAGMENT")
            _kept.append(operators)
            for operator in ("nms", "qnms"):
                operators.define(
                    f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
        return None


def patch_transfer() -> None:
    """Keep Mooncake's sender from staging page indices in pinned memory, which needs CUDA."""
    try:
        mooncake: Any = importlib.import_module("sglang.srt.disaggregation.mooncake.conn")
    except ImportError:
        return
    mooncake.MooncakeKVSender.supports_host_tensor_indices = False
    if os.environ.get(DROP_KV) == "1":
        mooncake.MooncakeKVManager.send_kvcache = lambda *args, **kwargs: 0


sys.meta_path.insert(0, _BeforeTorchvision())
