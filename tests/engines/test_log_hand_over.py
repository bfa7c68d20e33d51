"""The log of an engine that changes its name."""

from pathlib import Path

from pdctl.engines.log_rotation import hand_over


def test_the_log_goes_with_its_writer_and_the_one_before_is_set_aside(tmp_path: Path) -> None:
    old, new = tmp_path / "decode-1.log", tmp_path / "prefill-1.log"
    old.write_text("as decode\n")
    new.write_text("an earlier prefill-1\n")
    with old.open("a") as writer:
        hand_over(old, new)
        writer.write("as prefill\n")
    assert new.read_text() == "as decode\nas prefill\n"
    assert (tmp_path / "prefill-1.log.1").read_text() == "an earlier prefill-1\n"
    assert not old.exists()


def test_a_log_that_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    hand_over(tmp_path / "a.log", tmp_path / "b.log")
    assert list(tmp_path.iterdir()) == []
