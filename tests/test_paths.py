from pdctl.paths import profiles_dir


def test_the_bundled_data_is_where_the_package_looks() -> None:
    folder = profiles_dir()
    assert (folder / "gpus.json").is_file()
    assert (folder / "models" / "deepseek-r1.json").is_file()
