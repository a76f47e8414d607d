"""Runs a program from standard input with a folder of modules on its path: `python -I -S -B isolated.py FOLDER < PROGRAM`.

Exit status 0 if it ends without an exception. Before it begins, the process gives up what it can on its platform: more than one
second of CPU time and 512 MiB of memory, writing files, new processes, and the network. It is a separate script that imports
only the standard library, so that it starts quickly.
"""

import os
import sys

CPU_SECONDS, MEMORY_BYTES = 1, 512 * 2**20
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
"""Linux's CLONE_NEWUSER and CLONE_NEWNET: new namespaces, the second without any interface that is up."""
REFUSED = ("socket.", "subprocess.", "shutil.", "ctypes.", "tempfile.", "os.system", "os.exec", "os.posix_spawn", "os.spawn")
REFUSED += ("os.fork", "os.kill", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
REFUSED += ("os.chmod", "os.chown", "os.utime", "pty.", "ftplib.", "http.", "urllib.", "smtplib.", "resource.", "signal.")
"""Prefixes of the names of audit events (PEP 578) that end the program."""


def give_up() -> None:
    """Leave the network and limit what the process may use, as far as the platform can."""
    try:
        import ctypes

        ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK)  # if the kernel refuses, only the audit hook remains
    except (ImportError, OSError, AttributeError, TypeError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {"CPU": CPU_SECONDS, "AS": MEMORY_BYTES, "FSIZE": 0, "CORE": 0, "NPROC": 0}
    for name, limit in limits.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
        except (AttributeError, ValueError, OSError):  # macOS lacks some
            continue


def refuse(event: str, arguments: tuple) -> None:
    """An audit hook: raises an error for anything that a completed program has no business doing."""
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event.startswith(REFUSED) or (event == "open" and isinstance(arguments[2], int) and arguments[2] & writes):
        raise PermissionError(f"{event} is not allowed here")


def main() -> None:
    """The command."""
    program = sys.stdin.read()
    sys.path.insert(0, sys.argv[1])
    give_up()
    sys.addaudithook(refuse)
    try:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    except BaseException as error:  # an exit is not a success either
        os.write(2, f"{type(error).__name__}: {error}".encode(errors="replace"))
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
