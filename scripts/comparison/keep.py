"""Pack the records of finished runs into a small archive, with which a report is made again, or a sweep goes on elsewhere.

    python scripts/comparison/keep.py logfiles/comparison docs/comparison/runs.tar.xz [--data_dir DATA]

Left out are models, reports, logs of sweeps, and the probabilities of single rows. Paths of this machine become relative: the
current folder disappears from them, and DATA becomes `data`. The same records give the same archive.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from llmft.runs.names import DONE
from llmft.runs.store import whole_file

TEXTS = ("config.json", "cost.json", "metrics.json", "train_log.jsonl")
PREDICTIONS = "predictions.parquet"
LONG_COLUMNS = ("label_logprobs", "token_logprobs", "best_token")


def kept(run: Path, names: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of what is kept of a run.

    Args:
        names: paths of this machine -> what they become.
    """
    yield DONE, b""
    for name in TEXTS:
        if (run / name).is_file():
            text = (run / name).read_text(encoding="utf-8")
            for path, other in names.items():
                text = text.replace(path, other)
            yield name, text.encode()
    if not (run / PREDICTIONS).is_file():
        return
    table, written = pq.read_table(run / PREDICTIONS), io.BytesIO()
    pq.write_table(table.drop_columns([name for name in LONG_COLUMNS if name in table.column_names]), written, compression="none")
    yield PREDICTIONS, written.getvalue()  # which xz compresses better


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of all runs; its name is the archive's folder")
    parser.add_argument("archive", type=Path, help="the file to write, .tar.xz")
    parser.add_argument("--data_dir", type=Path, help="the folder of the sweep's DATA_DIR")
    arguments = parser.parse_args()
    names = {} if arguments.data_dir is None else {str(arguments.data_dir.resolve()): "data"}
    names |= {f"{Path.cwd()}/": "", f'"{Path.cwd()}"': '"."'}
    runs = sorted(done.parent for done in arguments.folder.rglob(DONE))
    with whole_file(arguments.archive) as aside, tarfile.open(aside, "w:xz", preset=9) as archive:
        for run in runs:
            inside = Path(arguments.folder.name) / run.relative_to(arguments.folder)
            for name, content in kept(run, names):
                member = tarfile.TarInfo(str(inside / name))
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    print(f"{len(runs)} runs, {arguments.archive.stat().st_size / 2**10:.0f} KiB: {arguments.archive}")


if __name__ == "__main__":
    main()
