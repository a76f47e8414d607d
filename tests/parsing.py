"""Argument groups of a command line, without its runs."""

from llmft.arguments.command_line import make, read


def parse(groups, argv):
    """One instance of each group, and the arguments whose value is not the default."""
    values, given = read(groups, argv, "")
    return make(groups, values), given
