"""Bounded logs."""

from pathlib import Path

from pdctl.engines.log_rotation import rotate


def test_a_log_that_has_grown_is_set_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old" * 10)
        assert rotate(log, max_bytes=20)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "router.log.1").read_bytes() == b"old" * 10
    assert (tmp_path / "router.log.1").stat().st_mode & 0o777 == 0o600


def test_only_one_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    for content in (b"first", b"second"):
        log.write_bytes(content)
        assert rotate(log, max_bytes=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["router.log", "router.log.1"]
    assert (tmp_path / "router.log.1").read_bytes() == b"second"


def test_a_small_log_and_none_at_all_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    assert not rotate(log)
    log.write_bytes(b"little")
    assert not rotate(log)
    assert log.read_bytes() == b"little"


def test_a_link_in_place_of_the_old_log_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    log = tmp_path / "router.log"
    log.write_bytes(b"much")
    (tmp_path / "router.log.1").symlink_to(target)
    assert rotate(log, max_bytes=1)
    assert target.read_bytes() == b"precious"
