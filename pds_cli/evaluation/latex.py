"""Tables for LaTeX with the package booktabs."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Brackets too: one at a row's beginning would be read as an option of the \\ before it.
SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}",
    "*": "{*}", '"': r"\textquotedbl{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "−": "$-$",
    "–": "--", "—": "---",
}  # fmt: skip


def escape(text: str) -> str:
    r"""Text that LaTeX sets as it stands, on one line; control characters are left out.

    >>> escape("50% of $5 & a_b")
    '50\\% of \\$5 \\& a\\_b'
    """
    printable = (c for c in " ".join(text.split()) if unicodedata.category(c) not in ("Cc", "Cs"))
    return "".join(SPECIAL.get(c, c) for c in printable)


def latex_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], columns: str, notes: Sequence[str] = ()
) -> str:
    r"""A `tabular` with booktabs' rules.

    Args:
        columns: a letter a column, as `lrr`.
        notes: become comments above the table.
    """
    comments = [f"% {' '.join(note.split())}" for note in notes]
    body = [" & ".join(map(escape, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}",
            *comments,
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(escape, head)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
