"""Tables as LaTeX: `booktabs`, and `longtable` where they are longer than a page."""

from __future__ import annotations

from llmft.report.tables import Table

PAGE = 40
"""Rows of which more do not fit one page."""
ESCAPED = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "°": r"$^\circ$",
        "\n": " ",
        "\t": " ",
    }
)


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return text.translate(ESCAPED)


def latex(table: Table) -> str:
    r"""The table with title and notes, to be `\input`; it needs the packages named in its first line."""
    shown = table.narrow().telling()
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
    return " & ".join(cells) + r" \\"


def _signed(cell: str) -> str:
    """A cell, its minus sign as one."""
    return f"$-${escape(cell[1:])}" if cell[:1] == "-" and len(cell) > 1 else escape(cell)
