"""The bytes of a file: unpacked, identified, and decoded. Text is UTF-8; no other encoding is guessed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
from pathlib import Path

from llmft.errors import quote

OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Endings of compressed files that are read as their content."""
SAVE_AS_TABLE, SAVE_AS_TEXT = "save it as csv in UTF-8", "save it as text in UTF-8"
KINDS = (
    (b"PAR1", "a parquet file", SAVE_AS_TEXT),
    (b"\x1f\x8b", "packed by gzip", "unpack it"),
    (b"BZh9", "packed by bzip2", "unpack it"),
    (b"\xfd7zXZ\x00", "packed by xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (xls)", SAVE_AS_TABLE),
    (b"\x93NUMPY", "a numpy array", SAVE_AS_TABLE),
    (b"ARROW1", "an Arrow (feather) file", "write it with pandas' to_parquet"),
    (b"\xff\xff\xff\xff", "an Arrow stream, as written by save_to_disk", "write it with the data set's to_parquet"),
    (b"\x89HDF", "an HDF5 file", SAVE_AS_TABLE),
    (b"SQLite format 3\x00", "an SQLite database", SAVE_AS_TABLE),
    (b"%PDF", "a PDF", SAVE_AS_TEXT),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file", "run git lfs pull"),
)
"""First bytes, the kind of file that they indicate, and the remedy."""
READ_UNDER = {"a parquet file": ".parquet", "packed by gzip": ".gz", "packed by bzip2": ".bz2", "packed by xz": ".xz"}
"""Kinds of files that can hold rows if their names end as they should."""
WIDE = ((b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


class WrongFile(ValueError):
    """A file is intact but not of the type that its name says. The message ends with the remedy."""


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked if its ending says that it is compressed.

    Raises:
        OSError, EOFError, lzma.LZMAError, zlib.error: it cannot be read or unpacked.
    """
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        return path.read_bytes()
    with opener(path) as stream:
        return stream.read()


def decode(data: bytes, *, rows: bool = False) -> str:
    """The text of a file in UTF-8, without a byte order mark; line ends stay as they are.

    Args:
        rows: as in `kind_of`.

    Raises:
        WrongFile: it is not text, or not in UTF-8.
    """
    if what := kind_of(data, rows=rows):
        raise WrongFile("it is {}; {}".format(*what))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(re.findall(b"\r\n|\r|\n", data[: error.start])) + 1
        raise WrongFile(
            f"byte 0x{data[error.start]:02x} in line {line} is not UTF-8; save it as UTF-8 "
            "(iconv -f latin1 -t utf-8, if it is Latin-1)"
        ) from error


def check_names(names: list[str], what: str) -> None:
    """Check that names in a file, those of `what`, differ: of two entries, readers would keep one without a word.

    Raises:
        ValueError: two are the same.
    """
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two {what} are named {quote(twice[0])}")


def kind_of(data: bytes, *, rows: bool = False) -> tuple[str, str] | None:
    """The kind of a file according to its first bytes, and the remedy; None if it may be text.

    Args:
        rows: whether it is a file of rows, which may be of another kind if its name says so.
    """
    if data.startswith(b"PK\x03\x04"):
        return _kind_of_zip(data)
    encoding = next((name for mark, name in WIDE if data.startswith(mark)), None)
    head = data[:400]
    if encoding is None and max(head[0::2].count(0), head[1::2].count(0)) * 20 > len(head) * 9 > 70:  # ASCII stored in two bytes
        encoding = "UTF-16"
    for start, name, remedy in KINDS:
        if data.startswith(start):
            return name, f"rename it to end in {READ_UNDER[name]}" if rows and name in READ_UNDER else remedy
    return encoding and (f"in {encoding}", f"save it as UTF-8 (iconv -f {encoding} -t utf-8)")


def _kind_of_zip(data: bytes) -> tuple[str, str]:
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except zipfile.BadZipFile:
        names = []
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook (xlsx)", SAVE_AS_TABLE
    return "a zip archive", "unpack it"
