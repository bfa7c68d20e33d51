"""The files of a model, to tell whether two hosts have the same one without reading its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
TEXTS = (".json", ".py", ".jinja", ".model", ".txt")  # configuration, weight index, tokenizer
MAX_READ_BYTES = 32 << 20


@dataclass(frozen=True)
class FileOnDisk:
    """One file. digest: of its content; "" for weights, whose content nobody reads."""

    size: int
    digest: str = ""


Contents = Mapping[str, FileOnDisk]


def model_contents(path: Path) -> dict[str, FileOnDisk] | None:
    """The files of a model's folder that SGLang reads, by name; None where there is no such path.

    Raises OSError for a file that cannot be read.
    Ignores: sub-folders, and the content of weights: 700 GB would take minutes on every host.
    """
    if not path.exists():
        return None
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    kept = (file for file in files if file.suffix in (*WEIGHTS, *TEXTS) and file.is_file())
    return {file.name: described(file) for file in kept}


def described(file: Path) -> FileOnDisk:
    """The size of a file, and the digest of its content unless it has weights. Raises OSError."""
    import hashlib  # `ls` and `status` start sooner without

    size = file.stat().st_size
    if file.suffix in WEIGHTS or size > MAX_READ_BYTES:
        return FileOnDisk(size)
    return FileOnDisk(size, hashlib.sha256(file.read_bytes()).hexdigest())
