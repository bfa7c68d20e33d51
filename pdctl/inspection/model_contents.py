"""The files of a model, to tell whether two hosts have the same one without reading its weights."""

from collections.abc import Iterator, Mapping
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
REVISION = "revision"  # of a snapshot in the Hugging Face cache, beside its files


def model_contents(path: Path) -> dict[str, FileOnDisk] | None:
    """The files of a model's folder that SGLang reads, by name; None where there is no such path.

    Of a model's folder in the Hugging Face cache: its main revision, and the files of that.

    Raises OSError for a file that cannot be read.
    Ignores: sub-folders, and the content of weights: 700 GB would take minutes on every host.
    """
    if (path / "snapshots").is_dir():
        return _cached_contents(path)
    if not path.exists():
        return None
    return {file.name: described(file) for file in _model_files(path)}


def _model_files(path: Path) -> Iterator[Path]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return (file for file in files if file.suffix in (*WEIGHTS, *TEXTS) and file.is_file())


def _cached_contents(folder: Path) -> dict[str, FileOnDisk] | None:
    """Files of a snapshot are links to blobs, whose names are digests, of weights too."""
    from pdctl.inspection.model_files import cached_revision  # `ls` starts sooner without

    revision = cached_revision(folder)
    snapshot = folder / "snapshots" / revision
    if not revision or not snapshot.is_dir():
        return None
    files = {f.name: FileOnDisk(f.stat().st_size, f.resolve().name) for f in _model_files(snapshot)}
    return {REVISION: FileOnDisk(0, revision), **files}


def described(file: Path) -> FileOnDisk:
    """The size of a file, and the digest of its content unless it has weights. Raises OSError."""
    import hashlib  # `ls` and `status` start sooner without

    size = file.stat().st_size
    if file.suffix in WEIGHTS or size > MAX_READ_BYTES:
        return FileOnDisk(size)
    return FileOnDisk(size, hashlib.sha256(file.read_bytes()).hexdigest())
