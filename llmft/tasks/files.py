"""Where the rows of a source lie on this machine, or that they are on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from llmft.errors import InputError
from llmft.tasks.formats import ENDINGS, check_file
from llmft.tasks.schema import Source


class Place(NamedTuple):
    """A source, its file (None: on the hub), a name that does not depend on folders, and what errors say of it."""

    source: Source
    path: Path | None
    name: str
    where: str


def locate(source: Source, data_dir: str | None) -> Place:
    """Where to read `source` from.

    Args:
        data_dir: folder with local files, or None for the hub.

    Raises:
        InputError: nowhere, or what is there is no file with something in it.
    """
    if source.file is not None:
        place = Place(source, Path(source.file), source.flag.lstrip("-"), f"{source.flag} {source.file}")
    elif data_dir is not None and (path := _local_path(source, data_dir)):
        place = Place(source, path, str(path.relative_to(data_dir)), f"--data_dir {data_dir}: {path.relative_to(data_dir)}")
    elif data_dir is None and source.hub_path:
        name = f"{source.hub_path}/{source.hub_name or 'default'}/{source.hub_split}"
        return Place(source, None, name, f"data set {name}")
    elif source.otherwise:
        return locate(source.otherwise, data_dir)
    else:
        files = " or ".join(source.local_files)
        if data_dir is None:
            raise InputError(f"--data_dir: not given, so there is no {files}; {source.hint}")
        raise InputError(f"--data_dir {data_dir}: no file {files} with one of the endings {' '.join(ENDINGS)}; {source.hint}")
    check_file(place.path, place.where)
    return place


def _local_path(source: Source, data_dir: str) -> Path | None:
    stems = [Path(data_dir) / name for name in source.local_files]
    paths = [stem.with_name(stem.name + ending) for stem in stems for ending in ENDINGS]
    return next((path for path in paths if path.exists()), None)
