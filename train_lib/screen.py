"""Tables on the screen: in colour on a terminal, plain elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any


def show(
    tables: Mapping[str, Sequence[Mapping[str, str]]], notes: Sequence[str], plain: str
) -> None:
    """Prints tables, and notes below them.

    Args:
        tables: the rows of each, by its title. All rows have the same columns.
        notes: one or more sentences each.
        plain: printed instead if the output goes to a file, another program or a terminal without
            colours. `NO_COLOR` and `FORCE_COLOR` have their usual meaning.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = _terminal()
    if not console:
        print(plain, flush=True)
        return
    for title, rows in tables.items():
        table = Table(
            title=Text(title, "bold"), title_justify="left", box=box.SIMPLE, header_style="cyan"
        )
        for number, name in enumerate(rows[0]):
            is_first = number == 0  # Whole, not wrapped: it says which row this is.
            table.add_column(Text(name), style="bold" if is_first else "", no_wrap=is_first)
        for row in rows:
            table.add_row(*map(Text, row.values()))
        console.print(table)
    for note in notes:
        console.print(Text(f"* {note}", "dim"))


def show_words(words: Sequence[str], strengths: Sequence[float], plain: str) -> None:
    """Prints a text with positive words on green and negative ones on red.

    Args:
        words: words of any characters.
        strengths: one for each word, in [-1, 1].
        plain: printed instead if there are no colours.
    """
    from rich.text import Text

    console = _terminal()
    if not console:
        print(plain, flush=True)
        return
    text = Text()
    for word, strength in zip(words, strengths, strict=True):
        level = round(200 * (1 - abs(strength)))
        red, green = (level, 200) if strength > 0 else (200, level)
        style = f"black on rgb({red},{green},{level})" if abs(strength) > 0.05 else ""
        text.append(word, style).append(" ")
    console.print(text)


def _terminal() -> Any:
    """The terminal, if it shows colours; else None."""
    from rich.console import Console  # Few programs need it.

    console = Console()
    return console if console.is_terminal and not console.is_dumb_terminal else None
