import bz2
import csv
import gzip
import json
import lzma
import random
import re
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from llmft.errors import InputError
from llmft.tasks.formats import ENDINGS, read_file
from tests.tasks.conftest import load, resolve

ROWS = [{"text1": "good", "text2": "x", "label": 1}, {"text1": "bad", "text2": "y", "label": 0}]
ODD = ['{text1} {0} {{}} "q" \'s', "a\tb\nc\r\nd\re", "", " null NaN 007 ", "1", "🤖☃\u2028\x00\x85", "\ufeff=1+1\\n,;"]


def write(file, rows):
    """Write rows of strings and numbers as the file's ending says."""
    ending = file.suffix
    if ending == ".parquet":
        pd.DataFrame(rows).to_parquet(file)
    elif ending == ".json":
        file.write_text(json.dumps(rows, indent=1))
    elif ending == ".jsonl":
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="")
    elif ending == ".csv":
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        file.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8", newline="")


def through(ending, rows):
    """The texts that a file of the user's own gives a run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows{ending}"
        write(file, rows)
        data = load(resolve("--train_file", file, "--validation_file", file))
    return [(row["text1"], row["text2"], row["label"], row["idx"]) for row in data.train]


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending not in (".tsv", ".txt")])
@settings(deadline=None, max_examples=50)  # they write files, and disks take their time
@given(texts=st.lists(st.tuples(st.text(), st.text()), min_size=2, max_size=6))
@example(texts=list(zip(ODD, ODD[::-1], strict=True)))
def test_any_text_stays_as_it_is(ending, texts):
    rows = [{"text1": a, "label": i % 2, "text2": b} for i, (a, b) in enumerate(texts)]
    assert through(ending, rows) == [(a, b, i % 2, i) for i, (a, b) in enumerate(texts)]


@pytest.mark.parametrize("ending", [".tsv", ".txt"])
@settings(deadline=None, max_examples=50)  # they write files, and disks take their time
@given(texts=st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n"))] * 2), min_size=2))
@example(texts=[(text.replace("\t", " ").replace("\n", " "), '"') for text in ODD])
def test_a_tsv_holds_any_text_but_tabs_and_line_ends(ending, texts):
    texts = [(a, b.rstrip("\r")) for a, b in texts]  # at the end of a line they belong to its end
    rows = [{"text1": a, "label": i % 2, "text2": b} for i, (a, b) in enumerate(texts)]
    assume(not any('""' in text or re.fullmatch('".*,.*"', text) for pair in texts for text in pair))  # perhaps a csv's quotes
    assert through(ending, rows) == [(a, b, i % 2, i) for i, (a, b) in enumerate(texts)]


def test_a_tsv_that_is_quoted_as_a_csv_is_refused(tmp_path):
    file, rows = tmp_path / "rows.tsv", pd.DataFrame({"text1": ["plain", 'say "hi"', '"quoted" at its ends: "yes"'], "label": 0})
    rows.to_csv(file, sep="\t", index=False)
    with pytest.raises(InputError, match=r"tsv: its cells are quoted as in a csv; save it as csv, or write it with quoting=csv"):
        resolve("--train_file", file, "--validation_file", file)
    assert read_file(file, "")["text1"][1] == '"say ""hi"""'  # as GLUE's QQP is
    rows.to_csv(file, sep="\t", index=False, quoting=csv.QUOTE_NONE)
    assert read_file(file, "", own=True)["text1"] == rows["text1"].tolist()
    file.write_text('text1\tanswer\nTell me\t"1814, in May"\nWhen?\tin 1814\n')  # quoted because of the comma
    with pytest.raises(InputError, match="tsv: its cells are quoted as in a csv"):
        read_file(file, "", own=True)
    for quotes in (
        ['"a" and "b"'],
        ['"a"'],
        ['"'],
        ['"a ""b"""', 'a ""b""'],
        ['"a, b"', "a, b"],
        ['"a, b"', 'say "hi"'],
        ['"No."', '"Yes, so."'],
    ):
        file.write_text("text1\n" + "\n".join(quotes))
        assert read_file(file, "", own=True)["text1"] == quotes


TABLE = {".tsv": "text1\tlabel\na b\t1\nc\t0\n", ".csv": "text1,label\na b,1\nc,0\n"}
TABLE[".jsonl"] = '{"text1": "a b", "label": "1"}\n{"text1": "c", "label": "0"}\n'
COLUMNS = {"text1": ["a b", "c"], "label": ["1", "0"]}


@pytest.mark.parametrize("ends", ["\n\n\n", "\r\n\r\n\r\n", "\n\r\n\r\n", "\r\n\n\n", "\r\r\r", "\r\r\n\r\r\n\r\r\n", "\n\n"])
@pytest.mark.parametrize("ending", list(TABLE))
def test_line_ends_of_each_line_and_byte_order_marks(tmp_path, ending, ends):
    file = tmp_path / f"rows{ending}"
    lines = [*TABLE[ending].splitlines(), ""]
    ends = re.findall("\r*\n|\r", ends)
    text = "".join(line + end for line, end in zip(lines, [*ends, "", ""], strict=False))
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_file(file, "") == COLUMNS


@pytest.mark.parametrize(("packing", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_packed_files_are_read(tmp_path, packing, pack):
    for ending, text in TABLE.items():
        file = tmp_path / f"rows{ending}{packing}"
        file.write_bytes(pack(text.encode()))
        assert read_file(file, "") == COLUMNS
        file.write_bytes(pack(random.Random(0).randbytes(500))[:-9])
        with pytest.raises(InputError, match=rf"cannot be read as {ending[1:]}\{packing}: "):
            read_file(file, "")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_long_cells(tmp_path, ending):
    limit = csv.field_size_limit()
    file, rows = tmp_path / f"rows{ending}", [{"text1": "cat " * 10**5, "label": "a"}, {"text1": "b", "label": "b"}]
    write(file, rows)
    assert read_file(file, "") == {"text1": [rows[0]["text1"], "b"], "label": ["a", "b"]}
    assert csv.field_size_limit() == limit


def test_what_no_row_needs_does_not_stand_in_the_way(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": "x", "id": ' + "9" * 5000 + "}")
    assert read_file(file, "")["a"] == ["x"]
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": ["x"], "date": pa.array([2**40], pa.timestamp("s"))}), file)
    assert read_file(file, "")["a"] == ["x"]
    file = tmp_path / "rows.csv"
    file.write_text("\n,a,,\n0,x,,\n,,,\n,,,\n\n")
    assert read_file(file, "") == {"a": ["x"]}


def test_json_rows_below_one_name(tmp_path):
    file, rows = tmp_path / "rows.json", [{"a": 1}, {"a": 2}]
    for content in ({"rows": rows}, {"version": "1", "data": rows}):
        file.write_text(json.dumps(content, indent=1))
        assert read_file(file, "") == {"a": [1, 2]}
    file.write_text(json.dumps({"a": 1, "b": "x"}, indent=1))
    assert read_file(file, "") == {"a": [1], "b": ["x"]}


def test_json_objects_may_differ_in_their_columns(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text('{"a": 1}\n\n{"b": "x", "a": null}')
    assert read_file(file, "") == {"a": [1, None], "b": [None, "x"]}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.parquet", b"", "the file is empty"),
        ("a.csv", b"", "the file is empty"),
        ("a.parquet", b"PAR1 no parquet", "cannot be read as parquet: "),
        ("a.parquet", b"text1,label\na,1\n", "cannot be read as parquet: .*; fix the file, or its ending"),
        ("a.jsonl", b"text1,label\na,1\n", "cannot be read as jsonl: line 1: "),
        ("a.jsonl", b'{"a": 1}\n{"a": 1', "cannot be read as jsonl: line 2: "),
        ("a.jsonl", b"[1]\n", "cannot be read as jsonl: line 1 is not an object"),
        ("a.json", b"[1, 2]", "cannot be read as json: row 1 is not an object"),
        ("a.json", b"[" * 100000, "cannot be read as json: its values are nested too deeply"),
        (
            "a.json",
            b'{"a": {"0": 1, "1": 2}, "b": {"0": 1, "1": 2}}',
            "json: it is a single object of columns; .*orient='records'",
        ),
        ("a.json", b"[]", "cannot be read as json: it has no rows; name another file"),
        ("a.json", b'{"data": []}', "cannot be read as json: it has no rows; name another file"),
        ("a.jsonl", b'{"a": [1, 2], "b": [1, 2]}', "jsonl: it is a single object of columns; .*orient='records'"),
        ("a.jsonl", b'{"a": 1},\n{"a": 2}\n', "cannot be read as jsonl: line 1: .* .it ends in a comma"),
        ("a.jsonl", b'{"a": 1}\n{"a": 1, "a": 2}\n', "cannot be read as jsonl: line 2: two columns are named 'a'"),
        ("a.csv", b"PAR1\xff\xfe\x00", "cannot be read as csv: it is a parquet file; rename it to end in .parquet"),
        ("a.csv", b"text1,label\r\na,1\r\n\xe9,1\n", "csv: byte 0xe9 in line 3 is not UTF-8; save it as UTF-8 .iconv -f latin1"),
        ("a.csv", "text1,label\na,1\n".encode("utf-16"), "csv: it is in UTF-16; save it as UTF-8"),
        ("a.csv", "text1,label\na,1\n".encode("utf-16-le"), "csv: it is in UTF-16; save it as UTF-8"),
        ("a.csv", b"text1;label\na,b;1\n", "csv: a semicolon separates its columns .'text1;label'., .* save it with commas"),
        ("a.csv", b"text1\tlabel\na,b\t1\n", "csv: a tab separates its columns .*; rename it to end in .tsv"),
        ("a.tsv", b"text1,label\na,1\n", "tsv: a comma separates its columns .*; rename it to end in .csv"),
        ("a.csv", b"PK\x03\x04 x", "csv: it is a zip archive; unpack it"),
        ("a.parquet", b"PK\x03\x04 x", "parquet: it is a zip archive; unpack it"),
        ("a.csv", gzip.compress(b"text1", mtime=0), "csv: it is packed by gzip; rename it to end in .gz"),
        ("a.csv.gz", b"text1,label\na,1\n", "cannot be read as csv.gz: Not a gzipped file"),
        (
            "a.parquet",
            b"version https://git-lfs.github.com/spec/v1\n",
            "it is a Git LFS pointer instead of the file; run git lfs pull",
        ),
        ("a.csv", b"<!DOCTYPE html>\n<html>", "csv: it is a web page; download the file itself"),
        ("a.csv", b"\x93NUMPY\x01\x00", "csv: it is a numpy array"),
        ("a.gz", b"x", "unknown ending '.gz'"),
        ("a.csv.zip", b"x", "unknown ending '.zip'; use one of .* .text also compressed: .gz .bz2 .xz"),
        ("a.csv", b"text1,label\na,b,1\n", "cannot be read as csv: line 2 has 3 cells, but there are 2 columns"),
        ("a.csv", b'text1,label\n"a,1\n', "csv: the row that begins in line 2: unexpected end of data"),
        ("a.csv", b'a,b\r\nWhen?, "1814"\r\n', "csv: line 2 has white space in front of a quoted cell, ' \"1814\"'; remove it"),
        ("a.csv", b"text1,text1\na,1\n", "cannot be read as csv: two columns are named 'text1'"),
        ("a.tsv", b"text1\tlabel\na\n", "cannot be read as tsv: line 2 has 1 cells, but there are 2 columns"),
        ("a.tsv", b"\n\n", "cannot be read as tsv: it has no lines"),
        ("a.xlsx", b"x", "unknown ending '.xlsx'; use one of .parquet .jsonl"),
        ("a", b"x", "unknown ending ''"),
    ],
)
def test_bad_files(tmp_path, name, content, says):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_file(file, f"--train_file {file}")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--train_file {file}: ")


def test_a_folder_or_nothing_in_place_of_a_file(tmp_path):
    folder = tmp_path / "rows.csv"
    with pytest.raises(InputError, match="no such file"):
        read_file(folder, "--train_file")
    folder.mkdir()
    with pytest.raises(InputError, match="is a folder; name a file"):
        read_file(folder, "--train_file")
    (folder / "state.json").touch()
    with pytest.raises(InputError, match="is a folder of save_to_disk; name a file written by the data set's to_parquet"):
        read_file(folder, "--train_file")


def test_a_damaged_parquet_is_one_line_or_the_same_rows(tmp_path):
    file = tmp_path / "rows.parquet"
    pd.DataFrame(ROWS * 50).to_parquet(file)
    whole, dice = file.read_bytes(), random.Random(0)
    for _ in range(60):
        file.write_bytes(whole[: dice.randrange(1, len(whole))])
        with pytest.raises(InputError, match="cannot be read as parquet") as caught:
            read_file(file, "--train_file")
        assert "\n" not in str(caught.value)


def test_a_file_under_the_wrong_ending_is_one_line(tmp_path):
    for written in ENDINGS[:5]:
        for named in ENDINGS[:5]:
            file = tmp_path / f"{written[1:]}{written}"
            write(file, ROWS)
            file = file.rename(tmp_path / f"{written[1:]}{named}")
            if (written, named) in {(ending, ending) for ending in ENDINGS} | {(".jsonl", ".json")}:
                assert load(resolve("--train_file", file, "--validation_file", file)).train
                continue
            with pytest.raises(InputError) as caught:
                load(resolve("--train_file", file, "--validation_file", file))
            assert "\n" not in str(caught.value)
