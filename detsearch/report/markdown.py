"""Text in Markdown (GitHub's flavour), whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Iterable


def escape_markdown(text: str) -> str:
    """Any text as one line of Markdown that renders to itself, in a table cell too."""
    line = " ".join(text.split())
    line = re.sub(r"([\\`*\[\]<>|&~$#!])", r"\\\1", line)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)  # inside a word GitHub leaves _ alone


def code_span(text: str) -> str:
    """Text as a Markdown code span that can stand in a table: a longer fence where it has backticks itself."""
    line = " ".join(text.split())
    if not line:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|")


def code_block(text: str, language: str = "") -> str:
    """Lines of text as a fenced block; the fence is longer than any run of backticks in them."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table_row(cells: Iterable[str]) -> str:
    """A line of a table; its cells are Markdown."""
    return f"| {' | '.join(cells)} |"
