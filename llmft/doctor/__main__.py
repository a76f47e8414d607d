"""`python -m llmft.doctor [--model_name_or_path M]`: what is installed and available on this machine, and whether it computes
correctly. Exits with 0 if so, 1 if something is wrong or too large for a device, and 2 on bad input, like every script."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llmft.errors import InputError
from llmft.runs.program import exit_on_bad_input


def main(argv: Sequence[str] | None = None) -> int:
    """Examine the machine, and print the findings.

    Returns:
        The exit code: 0, or 1 if a check has failed.

    Raises:
        InputError: an argument is invalid, or there is no such model.
    """
    from rich.table import Table
    from transformers.utils.logging import disable_progress_bar

    from llmft.arguments.command_line import make, read
    from llmft.arguments.model import ModelArguments
    from llmft.doctor.checks import embedded_checks, model_checks
    from llmft.doctor.machine import devices, facts
    from llmft.runs.summary import plain_console

    values, given = read((ModelArguments,), argv, "Check whether this machine computes correctly.")
    (flags,) = make((ModelArguments,), values)
    if given and flags.model_name_or_path is None:
        name, value = next(iter(given.items()))
        raise InputError(f"--{name} {value}: has no effect without --model_name_or_path; add it, or drop this flag")
    disable_progress_bar()
    console = plain_console()
    seen = Table(title="This machine", title_justify="left", show_header=False)
    for name, value in facts():
        seen.add_row(name, value)
    console.print(seen)
    of_model = () if flags.model_name_or_path is None else model_checks(flags, devices()[-1])
    checks = [*(check for device in devices() for check in embedded_checks(device)), *of_model]
    table = Table("device", "check", "seen", "expected", "", title="Checks", title_justify="left")
    for check in checks:
        table.add_row(check.device, check.what, check.seen, check.expected, check.verdict)
    console.print(table)
    failed = [check for check in checks if not check.passed]
    for check in failed:
        console.print(check.complaint, soft_wrap=True)
    console.print(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    with exit_on_bad_input():
        sys.exit(main())
