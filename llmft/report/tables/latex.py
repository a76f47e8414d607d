"""Tables as LaTeX: `booktabs`, and `longtable` if they are longer than a page."""

from __future__ import annotations

import re
import unicodedata

from llmft.report.tables.table import ReportTable

PAGE = 40
"""Maximum rows that fit on a page."""
ESCAPED = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
        ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "°": r"$^\circ$", "×": r"$\times$", "·": r"$\cdot$",
        "–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "ß": r"\ss{}", "†": r"\dag{}", "‡": r"\ddag{}",
        "≠": r"$\neq$",
        "▁": r"\_",  # a space, in the words of many tokenizers
    }
)  # fmt: skip
ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True))
"""Combining accents and LaTeX's names for them."""


def escape(text: str) -> str:
    """Text that LaTeX prints verbatim."""
    plain = re.sub(r"[\x00-\x1f\x7f]", " ", text).replace("--", "-\0-")  # two hyphens would become a dash
    return re.sub(r"[^\x00-\x7f]", _of_ascii, plain.translate(ESCAPED)).replace("\0", "{}")


def _of_ascii(character: re.Match[str]) -> str:
    """Replacement for a character that pdflatex may not know: a letter with its accent, similar characters, or its number."""
    base, *accents = decomposed = unicodedata.normalize("NFKD", character[0])
    if len(accents) == 1 and base.isascii() and accents[0] in ACCENTS:
        return rf"\{ACCENTS[accents[0]]}{{{base}}}"
    like = "".join(decomposed)
    return escape(like) if like.isascii() else f"U+{ord(character[0]):04X}"


def latex(table: ReportTable) -> str:
    r"""The table with title and notes, to be `\input`; it needs the packages named in its first line."""
    shown = table.narrow().without_constant_columns()
    long = len(shown.rows) > PAGE
    layout = "".join("l" if column.left else "r" for column in shown.columns)
    head = _line([escape(column.name) for column in shown.columns])
    body = [_line([_signed(cell) for cell in row]) for row in shown.cells()]
    caption = rf"\caption{{{escape('. '.join([table.title, *(note.rstrip('.') for note in shown.notes)]))}.}}"
    label = rf"\label{{tab:{table.name}}}"
    if long:
        top = [rf"\begin{{longtable}}{{{layout}}}", rf"{caption}{label}\\", r"\toprule", head, r"\midrule", r"\endfirsthead"]
        lines = [*top, r"\toprule", head, r"\midrule", r"\endhead", *body, r"\bottomrule", r"\end{longtable}"]
    else:
        top = [r"\begin{table}", r"\centering", caption, label, rf"\begin{{tabular}}{{{layout}}}", r"\toprule", head, r"\midrule"]
        lines = [*top, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    packages = r"% \usepackage{booktabs}" + (r" \usepackage{longtable}" if long else "")
    return "\n".join([packages, *lines]) + "\n"


def _line(cells: list[str]) -> str:
    row = " & ".join(cells) + r" \\"
    return "{}" + row if row[0] in "[*" else row  # else it would be an argument of the previous line


def _signed(cell: str) -> str:
    """A cell, with a proper minus sign before numbers."""
    return f"$-${escape(cell[1:])}" if re.match(r"-[\d.]", cell) else escape(cell)
