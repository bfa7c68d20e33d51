"""`pdctl help`: the pages of the documentation, on a terminal and as man pages."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import typer

from pdctl.commands.command_line.verbs import TOPICS, VERBS
from pdctl.errors import EnvironmentProblem, InvalidInput, did_you_mean, nearest


def help(  # noqa: A001 - named as its verb is
    topic: list[str] = typer.Argument(None, help="A topic, or a verb. Default: all topics."),
    man: Path | None = typer.Option(
        None, "--man", help="Write every page and verb as man pages under this directory."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
) -> None:
    """Explain a topic: exit codes, JSON, trace formats, the columns of `status`, glossary.

    \b
    Examples:
      pdctl help exit-codes
      pdctl help --man ~/.local/share/man
    """
    if man is not None:
        _write_man_pages(man, as_json=as_json)
    elif topic:
        _show("-".join(topic), as_json=as_json)
    else:
        _list(as_json=as_json)


def page(topic: str) -> str:
    """The Markdown of a topic. Raises InvalidInput if there is no such topic."""
    from pdctl.paths import docs_dir

    if topic not in TOPICS:
        raise InvalidInput(
            f"There is no topic {topic!r}.{did_you_mean(nearest(topic, TOPICS))}",
            hint=f"one of {', '.join(TOPICS)}",
        )
    return (docs_dir() / TOPICS[topic]).read_text(encoding="utf-8")


def _show(topic: str, *, as_json: bool) -> None:
    from pdctl.cli import verb_help
    from pdctl.console import out, print_json, printable

    text = verb_help(topic) if topic in VERBS else page(topic)
    if as_json:
        print_json("help", {"topic": topic, "text": text})
        return
    console = out()
    if topic in VERBS or not console.is_terminal:
        typer.echo(printable(text.rstrip()))
        return
    from pdctl.tables.pages import page_view

    with console.pager() if _is_long(text) else nullcontext():  # less shows colours as codes
        console.print(page_view(text))


def _is_long(text: str) -> bool:
    import shutil

    return text.count("\n") > shutil.get_terminal_size().lines


def _list(*, as_json: bool) -> None:
    from pdctl.console import print_json
    from pdctl.tables.pages import title_of

    topics = {topic: title_of(page(topic)) for topic in TOPICS}
    if as_json:
        print_json("help", {"topics": topics})
        return
    width = max(map(len, topics))
    typer.echo("Topics of pdctl help:\n")
    for topic, title in topics.items():
        typer.echo(f"  {topic:<{width}}  {title}")
    typer.echo("\nOptions of a verb: pdctl VERB --help.")


def _write_man_pages(target: Path, *, as_json: bool) -> None:
    from pdctl.console import print_json

    written = []
    try:
        for path, text in man_pages(target):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(str(path))
    except OSError as problem:
        raise EnvironmentProblem(
            f"{target} cannot be written: {problem.strerror}.",
            hint="--man DIR with a directory you may write to",
        ) from problem
    if as_json:
        print_json("help", {"files": written})
    else:
        typer.echo(f"Wrote {len(written)} man pages. Read one with: man -M {target} pdctl")


def man_pages(target: Path) -> Iterator[tuple[Path, str]]:
    """Every man page with its file: pdctl and its verbs in section 1, topics in section 7."""
    from pdctl.cli import verb_help
    from pdctl.tables.pages import page_roff, usage_roff

    yield target / "man1" / "pdctl.1", usage_roff("pdctl", "plan, launch and watch", verb_help(""))
    for verb, summary in VERBS.items():
        text = usage_roff(f"pdctl-{verb}", summary, verb_help(verb))
        yield target / "man1" / f"pdctl-{verb}.1", text
    for topic in TOPICS:
        name = f"pdctl-{topic}"
        yield target / "man7" / f"{name}.7", page_roff(page(topic), name=name, section=7)
