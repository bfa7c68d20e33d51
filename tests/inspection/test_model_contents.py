from pathlib import Path

from pdctl.inspection.model_contents import REVISION, FileOnDisk, model_contents


def test_weights_count_by_size_and_other_files_by_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    (tmp_path / "README.md").write_text("differs everywhere")
    (tmp_path / "original").mkdir()
    found = model_contents(tmp_path)
    assert found is not None
    assert list(found) == ["config.json", "model.safetensors"]
    assert found["model.safetensors"] == FileOnDisk(5)

    (tmp_path / "config.json").write_text("[]")
    again = model_contents(tmp_path)
    assert again is not None
    assert again["config.json"].size == found["config.json"].size
    assert again["config.json"] != found["config.json"]


def test_a_single_file_is_a_model_and_no_path_is_none(tmp_path: Path) -> None:
    (tmp_path / "llama.gguf").write_bytes(b"123")
    assert model_contents(tmp_path / "llama.gguf") == {"llama.gguf": FileOnDisk(3)}
    assert model_contents(tmp_path / "nowhere") is None


def test_a_cached_model_is_its_revision_with_the_digests_that_blobs_are_named_by(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "models--some--model"
    snapshot = folder / "snapshots" / "c0ffee"
    for made in (snapshot, folder / "blobs", folder / "refs"):
        made.mkdir(parents=True)
    assert model_contents(folder) is None, "a download that has not begun"
    (folder / "refs" / "main").write_text("c0ffee\n")
    (folder / "blobs" / "5ha").write_bytes(b"12345")
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs/5ha"))
    (snapshot / "config.json").symlink_to(Path("../../blobs/gone"))
    assert model_contents(folder) == {
        REVISION: FileOnDisk(0, "c0ffee"),
        "model.safetensors": FileOnDisk(5, "5ha"),
    }
