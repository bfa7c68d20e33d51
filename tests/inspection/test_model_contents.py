from pathlib import Path

from pdctl.inspection.model_contents import FileOnDisk, model_contents


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
