"""The one kind of error that is the user's to mend: entry scripts print it as a single line and exit with status 2."""


class InputError(ValueError):
    """Bad input. The message is one line naming the flag (or file), its value, and the remedy.

    Args:
        message: line breaks in it, which values and other libraries' reasons may hold, become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))
