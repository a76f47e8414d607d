"""Locates the rows of a source on this machine or on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from llmft.arguments.encodings import OPENERS
from llmft.errors import InputError
from llmft.tasks.formats import ENDINGS, TEXT_ENDINGS, check_file
from llmft.tasks.schema import Source

SHARD = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.parquet")
"""The hub's names of the files of a split."""


class Place(NamedTuple):
    """A source, its files (none: on the hub), a name that does not depend on folders, and its description in errors."""

    source: Source
    paths: tuple[Path, ...]
    name: str
    where: str


def locate(source: Source, data_dir: str | None) -> Place:
    """Where to read `source` from.

    Args:
        data_dir: folder with local files, or None for the hub.

    Raises:
        InputError: there is no file, it is empty, or some of its shards are missing.
    """
    if source.file is not None:
        place = Place(source, (Path(source.file),), source.flag.lstrip("-"), f"{source.flag} {source.file}")
    elif data_dir is not None and (paths := _local_paths(source, data_dir)):
        name = str(paths[0].relative_to(data_dir))
        name = name if len(paths) == 1 else SHARD.sub(r"\1-*-of-\3.parquet", name)
        place = Place(source, paths, name, f"--data_dir {data_dir}: {name}")
    elif data_dir is None and source.hub_path:
        name = f"{source.hub_path}/{source.hub_name or 'default'}/{source.hub_split}"
        return Place(source, (), name, f"data set {name}")
    elif source.otherwise:
        return locate(source.otherwise, data_dir)
    else:
        files = " or ".join(source.local_files)
        if data_dir is None:
            raise InputError(f"--data_dir: not given, so there is no {files}; {source.hint}")
        raise InputError(f"--data_dir {data_dir}: no file {files} with one of the endings {' '.join(ENDINGS)}; {source.hint}")
    for path in place.paths:
        check_file(path, place.where)
    return place


def _local_paths(source: Source, data_dir: str) -> tuple[Path, ...]:
    """The file, or the files with the hub's names, of the first of the source's names that exists; () for none."""
    packed = [ending + packing for ending in TEXT_ENDINGS for packing in OPENERS]
    for stem in (Path(data_dir) / name for name in source.local_files):
        for path in (stem.with_name(stem.name + ending) for ending in (*ENDINGS, *packed)):
            if path.exists():
                return (path,)
        if shards := _shards(stem, data_dir):
            return shards
    return ()


def _shards(stem: Path, data_dir: str) -> tuple[Path, ...]:
    """All files of a split with the hub's names, in order."""
    names = [path.name for path in stem.parent.iterdir()] if stem.parent.is_dir() else []
    matches = [match for name in sorted(names) if (match := SHARD.fullmatch(name)) and match[1] == stem.name]
    if not matches:
        return ()
    totals = sorted({match[3] for match in matches})
    where = f"--data_dir {data_dir}: {stem.relative_to(data_dir)}-*"
    if len(totals) > 1:
        raise InputError(f"{where}: has files -of-{totals[0]} and -of-{totals[1]}; keep those of one download")
    expected = [f"{stem.name}-{number:05d}-of-{totals[0]}.parquet" for number in range(int(totals[0]))]
    missing = [name for name in expected if name not in names]
    if missing:
        raise InputError(f"{where}: {len(missing)} of {len(expected)} files are missing, the first being {missing[0]}; add them")
    return tuple(stem.with_name(name) for name in expected)
