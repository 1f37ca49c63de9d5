"""The command `uniformer`: finds the module of a command and runs it.

A command COMMAND is the module cli/COMMAND.py with two functions: `parse_args(argv)` returns its arguments, and
`main(argv)` runs it and returns its exit status (None: 0). The overview shows the first line of its docstring. Only the
module of the chosen command is imported, and modules of commands import PyTorch inside `main`, so that help texts and
argument errors are instant.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from slowfast_uniformer.cli.common import finish
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.wording import did_you_mean

COMMANDS = {
    "Training": ("train", "test", "reproduce", "config", "slurm"),
    "Data": ("demo-data", "lists", "check", "transcode"),
    "Using a trained model": (
        "predict",
        "explain",
        "features",
        "probe",
        "export",
        "app",
        "weights",
        "convert",
        "publish",
    ),
    "Analysis": ("report", "info", "plan"),
}
NAMES = [name for names in COMMANDS.values() for name in names]


def overview() -> str:
    """The help text of `uniformer`: all commands in groups, each with the first line of its module's docstring."""
    lines = ["usage: uniformer COMMAND [arguments]", "       uniformer COMMAND --help", "       uniformer --version"]
    for title, names in COMMANDS.items():
        lines += ["", f"{title}:"]
        for name in names:
            sentence = load_command(name).__doc__.splitlines()[0].partition(":")[0].removesuffix(".")
            lines.append(f"  {name:<11}{sentence}.")
    return "\n".join([*lines, "", "Start with: uniformer demo-data && uniformer train --cfg demo/uniformer"])


def load_command(name: str):
    """The module of a command. Raises UserError, with a similar one, for an unknown name."""
    if name not in NAMES:
        similar = did_you_mean(name, NAMES) or "."
        raise UserError(f"unknown command {name!r}{similar} `uniformer --help` lists all commands")
    return importlib.import_module(f"slowfast_uniformer.cli.{name.replace('-', '_')}")


def run(argv: Sequence[str]) -> int | None:
    """Run the command line `argv` (without the program's name); returns its exit status, None for 0."""
    if "_ARGCOMPLETE" in os.environ:
        return complete()
    name, *arguments = argv or ["--help"]
    if name in ("-h", "--help", "help"):
        print(overview())
    elif name == "--version":
        from slowfast_uniformer import __version__

        print(f"uniformer {__version__}")
    else:
        return load_command(name).main(arguments)


def complete() -> None:
    """Complete a command line for the shell, which runs the program with argcomplete's variables set."""
    import argparse

    import argcomplete

    words = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split(" ")
    first = int(os.environ["_ARGCOMPLETE"])  # the position of the program in `words`, from 1
    if len(words) > first + 1 and words[first] in NAMES:
        os.environ["_ARGCOMPLETE"] = str(first + 1)  # argcomplete takes the command's name for the program
        load_command(words[first]).parse_args([])
    parser = argparse.ArgumentParser(prog="uniformer")
    parser.add_argument("command", choices=NAMES)
    argcomplete.autocomplete(parser)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script; ends the process with the exit status of the command."""
    finish(lambda: run(sys.argv[1:] if argv is None else argv))
