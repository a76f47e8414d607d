"""The processes of one launch, and which one this is. Launchers set variables that are available from a program's first line
on; they are read only here."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from llmft.errors import InputError

RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
WORLD_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
LOCAL_WORLD_SIZE = (
    "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE",
)  # fmt: skip
"""Variables of torchrun and deepspeed, then those of MPI launchers that accelerate reads too; the first that is set counts."""
MEETING = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that ranks use to find each other."""
NOT_DISTRIBUTED = "-1"
"""A rank with this value means a plain start of a single process."""
PORT = "29500"
"""Where ranks meet if the launcher does not say; torch's own default."""
REMEDY = "start all processes with one launcher, torchrun or deepspeed"


@dataclass(frozen=True)
class Process:
    """A process of a launch; the only one on a plain start."""

    rank: int = 0
    local_rank: int = 0
    """Its rank on its machine."""
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the rank that decides, writes and prints for all."""
        return self.rank == 0


def this_process() -> Process:
    """This process, according to its variables; values that are not numbers, which `join_launch` refuses, count as unset."""
    return Process(_number(RANK) or 0, _number(LOCAL_RANK) or 0, _number(WORLD_SIZE) or 1)


def launched() -> bool:
    """Whether a launcher has started this process, even if it is the only one."""
    return _set(WORLD_SIZE) is not None


def join_launch(*, alone: bool) -> None:
    """Check the launcher's variables, and set torchrun's accordingly, which accelerate and DeepSpeed read on every device.

    Args:
        alone: set them on a plain start as well: otherwise DeepSpeed looks for MPI.

    Raises:
        InputError: the variables contradict each other.
    """
    process = this_process()
    _check(process)
    if process.world_size == 1:
        if alone and not all(name in os.environ for name in MEETING):
            _say(process, "127.0.0.1", free_port())
        return
    address = os.environ.get("MASTER_ADDR")
    if address is None and _number(LOCAL_WORLD_SIZE) != process.world_size:
        raise InputError(
            f"{_set(WORLD_SIZE)} {process.world_size}: MASTER_ADDR does not say where rank 0 is; set it, or {REMEDY}"
        )
    _say(process, address or "127.0.0.1", os.environ.get("MASTER_PORT", PORT))


def _check(process: Process) -> None:
    world = _set(WORLD_SIZE) or WORLD_SIZE[0]
    for names in (RANK, LOCAL_RANK, WORLD_SIZE):
        name = _set(names)
        plain = process.world_size == 1 and names is not WORLD_SIZE
        if name is not None and _number(names) is None and not (plain and os.environ[name] == NOT_DISTRIBUTED):
            raise InputError(f"{name} {os.environ[name]}: is not a rank or number of ranks; {REMEDY}")
    if not 0 <= process.rank < process.world_size:
        raise InputError(f"{_set(RANK)} {process.rank}: is not a rank of {world} {process.world_size}; {REMEDY}")
    for names in (RANK, LOCAL_RANK) if process.world_size > 1 else ():
        if _set(names) is None:
            raise InputError(f"{world} {process.world_size}: {names[0]} is not set; {REMEDY}, or unset {world}")


def _say(process: Process, address: str, port: str) -> None:
    values = {"RANK": process.rank, "LOCAL_RANK": process.local_rank, "WORLD_SIZE": process.world_size}
    os.environ |= {**{name: str(value) for name, value in values.items()}, "MASTER_ADDR": address, "MASTER_PORT": port}


def check_port() -> None:
    """Check that rank 0 can be reached at the launcher's port. If another launch uses it, torch would fail with a traceback.

    Raises:
        InputError: another program listens on the port.
    """
    if not this_process().is_first or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun itself listens there
        return
    port = os.environ["MASTER_PORT"]
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", int(port)))
        except (OSError, OverflowError, ValueError) as error:
            raise port_error(port, getattr(error, "strerror", None) or str(error)) from error


def port_error(port: str, reason: str) -> InputError:
    """The error for a port where ranks cannot meet."""
    return InputError(
        f"MASTER_PORT {port}: ranks cannot meet there ({reason}); use a free port, deepspeed --master_port <port>, or torchrun "
        "--standalone, which finds one"
    )


def free_port() -> str:
    """A port where ranks can meet, and no other launch on this machine does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _set(names: Sequence[str]) -> str | None:
    """The first of these variables that is set, if any."""
    return next((name for name in names if name in os.environ), None)


def _number(names: Sequence[str]) -> int | None:
    value = os.environ.get(_set(names) or "", "")
    return int(value) if value.isdecimal() else None
