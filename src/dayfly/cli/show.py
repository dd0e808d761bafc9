"""Rows for people and for pipes: a table in a terminal, plain columns elsewhere, or JSON.

A table that is wider than its terminal becomes one paragraph per row, so that names and ids
stay whole.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterable, Sequence

import click
import msgspec

#: Stands for nothing, so that ``awk`` always counts the same columns.
NOTHING = "-"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their columns' names.

    Out of a terminal the cells are never cut nor wrapped, and two spaces at least part them.
    """
    filled = [[cell or NOTHING for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich(columns, filled)
    else:
        click.echo(plain(columns, filled))


def plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as aligned text, the names of the columns in its first line."""
    lines = [[name.upper().replace(" ", "_") for name in columns], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        drawn.add_column(name, no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    if drawn.__rich_measure__(console, console.options).minimum <= console.width:
        console.print(drawn)
        return
    for row in rows:
        title, *lines = paragraph(columns, row, console.width)
        console.print(Text(title, style="bold"), soft_wrap=True)
        for line in lines:
            console.print(Text(line), soft_wrap=True)


def paragraph(columns: Sequence[str], row: Sequence[str], width: int) -> list[str]:
    """A row as lines of at most ``width`` characters where that can be done.

    The first cell is the title; of the others those that hold something follow, each whole.
    """
    lines = [row[0]]
    line = ""
    for name, cell in zip(columns[1:], row[1:], strict=True):
        if cell == NOTHING:
            continue
        piece = f"{name}: {cell}"
        if line and len(line) + len(piece) + 3 > width:
            lines.append(line)
            line = ""
        line = f"{line}   {piece}" if line else f"  {piece}"
    return [*lines, line] if line else lines


def json(rows: Sequence[msgspec.Struct]) -> None:
    """Print rows as one JSON array, with every field."""
    click.echo(msgspec.json.format(msgspec.json.encode(rows)).decode())


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``4 m 10 s``, ``2 h 5 m``."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 120:
        return f"{minutes} m {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m"


def date(seconds: float) -> str:
    """A moment in local time, to the second."""
    moment = dt.datetime.fromtimestamp(seconds).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")
