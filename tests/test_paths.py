from pathlib import Path

from pdctl.paths import near_path, profiles_dir


def test_the_bundled_data_is_where_the_package_looks() -> None:
    folder = profiles_dir()
    assert (folder / "gpus.json").is_file()
    assert (folder / "models" / "deepseek-r1.json").is_file()


def test_a_missing_path_names_what_stands_near_it(tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").touch()
    assert near_path(tmp_path / "request.jsonl") == (f" Did you mean {tmp_path}/requests.jsonl?")
    assert near_path(tmp_path / "zzz") == ""
    assert near_path(tmp_path / "requests.jsonl") == ""
    assert near_path(tmp_path / "no" / "a") == f" There is no folder {tmp_path}/no."
