"""Text of records that Markdown and LaTeX would take for something else."""

import shutil
import subprocess
from dataclasses import replace

import pytest

from llmft.report.tables import contents
from llmft.report.tables.latex import latex
from llmft.report.tables.table import NOTHING, Column, ReportTable, markdown


def table(heading, texts, notes=()):
    columns = (Column(heading, lambda row: row["text"], left=True),)
    return ReportTable("odd", "[Odd] <i>", columns, [{"text": text} for text in texts], notes)


def test_markdown_prints_text_as_it_is():
    texts = ["0.61*", "**b** a*b", "`x`", "<b>x</b>", "p < .05", "a_b __c__", "a\r\nb|c", r"\* \n", "&lt; & x", "[a](b) ~~c~~"]
    lines = markdown(table("a|b", texts, ("* a note",))).splitlines()
    assert lines[0] == r"## \[Odd] \<i>"
    assert lines[2] == r"| a\|b |"
    assert lines[4:-2] == [
        "| 0.61* |", r"| \*\*b\** a\*b |", r"| \`x\` |", r"| \<b>x\</b> |", "| p < .05 |", r"| a_b \_\_c__ |", r"| a b\|c |",
        r"| \\* \n |", r"| \&lt; & x |", r"| \[a](b) \~\~c\~\~ |",
    ]  # fmt: skip
    assert lines[-1] == r"\* a note"


def test_latex_prints_text_as_it_is():
    texts = ["[-0.1, 0.2]", "*", "▁yes", "Müller", "中", "--out\r\nx"]
    rows = [line for line in latex(table("[n]", texts)).splitlines() if line.endswith(r"\\")]
    assert rows == [
        r"{}[n] \\", r"{}[-0.1, 0.2] \\", r"{}* \\", r"\_yes \\", r'M\"{u}ller \\', r"U+4E2D \\", r"-{}-out  x \\",
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_of_odd_texts_compiles(tmp_path):
    odd = table("[n]", ["[a]", "*", "▁yes “q” – ½ …", "ñ č Ł 中 ß ï × †", "\\ { ~ ^ # --out\r\n"], ("* [note]",))
    inputs = latex(odd) + latex(replace(odd, name="long", rows=[*odd.rows] * 10))
    packages = "\\usepackage{booktabs}\\usepackage{longtable}"
    (tmp_path / "odd.tex").write_text(f"\\documentclass{{article}}{packages}\\begin{{document}}\n{inputs}\\end{{document}}")
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "odd.tex"], cwd=tmp_path, check=True, timeout=300)


def test_no_pattern_is_nothing():
    pattern = next(column for column in contents.WHO if column.name == "pattern")
    assert [pattern.text({"pattern": value}) for value in (None, float("nan"), "gpt-3")] == [NOTHING, NOTHING, "gpt-3"]
