"""What commands share: argument parsers, tables, and the exit status of an error."""

import argparse
import errno
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from slowfast_uniformer import paths, terminal
from slowfast_uniformer.config.load import split_cfg_arguments
from slowfast_uniformer.config.recipes import list_recipes
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.errors import LostRankError, UserError

KEYS = "Config keys are explained in docs/config.md; `uniformer config --cfg CONFIG` prints the values of a config."
MODEL = "trained model: a run's folder (the checkpoint that its own test takes), a checkpoint, a published folder, \
hf://USER/NAME, or a name or recipe of `uniformer weights list`"
SET = "override a config key; repeatable"
ALLOW_IMPORT = "import the module that the config names (MODEL.IMPORT), which runs its code"
MAX_WIDTH = 100  # columns of a help text
KEY = r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*"  # what a config key looks like

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a disk that takes no more


# ------------------------------------------------------------------------------------------------------ arguments
class HelpFormatter(argparse.HelpFormatter):
    """Wraps paragraphs to the terminal, keeps indented examples as they are, and ends options with their default, or
    with "(required)"."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns, MAX_WIDTH) - 1)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = text.strip("\n").split("\n\n")
        return "\n\n".join(part if part[0] == " " else "\n".join(self._split_lines(part, width)) for part in parts)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.required and action.option_strings:
            return f"{action.help} (required)"
        is_silent = action.default in (None, "", argparse.SUPPRESS) or isinstance(action.default, bool | list)
        if is_silent or "default:" in action.help:
            return action.help
        return f"{action.help} (default: %(default)s)"


def new_parser(command: str, description: str, usage: str = "", takes_config: bool = True) -> argparse.ArgumentParser:
    """A parser of `uniformer COMMAND`; `usage` is what follows the options, where these are too many to show.

    With a `usage` the command takes a config, unless `takes_config` is False. The usage also shows required options.
    """
    return argparse.ArgumentParser(
        prog=f"uniformer {command}",
        description=description,
        usage=f"%(prog)s [options] {usage}" if usage else None,
        epilog=KEYS if usage and takes_config else None,
        formatter_class=HelpFormatter,
    )


def config_parser(command: str, description: str, required: bool = True) -> argparse.ArgumentParser:
    """A parser with `--cfg` and the KEY VALUE pairs that follow; `parse_arguments` separates them."""
    parser = new_parser(command, description, "--cfg CONFIG [CONFIG ...] [KEY VALUE ...]")
    help_text = "recipe names (`uniformer config` lists them) or YAML files; later ones override earlier ones"
    parser.add_argument("--cfg", nargs="+", required=required, metavar="CONFIG", help=help_text)
    parser.add_argument("opts", nargs="*", help=argparse.SUPPRESS)
    return parser


def model_parser(
    command: str, description: str, videos: bool = True, model: Sequence[str] = ("--checkpoint",)
) -> argparse.ArgumentParser:
    """A parser with the arguments of a trained model and, optionally, `videos`; `parse_model_arguments` reads them.

    `model` are the names of the option that gives the model.
    """
    usage = "--checkpoint MODEL" + (" VIDEO|FOLDER|LIST [...]" if videos else "")
    parser = new_parser(command, description, usage)
    parser.add_argument(*model, required=True, metavar="MODEL", dest="checkpoint", help=MODEL)
    if videos:
        parser.add_argument("videos", nargs="*", metavar="VIDEO", help="video files, folders of videos, or lists")
    add = parser.add_argument_group("config and loading").add_argument
    help_text = "recipe names or YAML files (default: the config that the model carries); KEY VALUE pairs may follow"
    add("--cfg", nargs="+", default=[], metavar="CONFIG", help=help_text)
    add("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help=SET)
    add("--allow-import", action="store_true", help=ALLOW_IMPORT)
    add("--allow-fetch", action="store_true", help="download from addresses that the checkpoint's config names")
    return parser


def positive(kind: type) -> Callable[[str], Any]:
    """An argument type: a number of this kind above 0."""

    def read(text: str) -> Any:
        with suppress(ValueError):
            if (value := kind(text)) > 0:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} must be a {'whole ' if kind is int else ''}number above 0")

    return read


def _show_required(parser: argparse.ArgumentParser) -> None:
    """Add the required options to a usage that `new_parser` was given, as far as they are not in it."""
    if not parser.usage:
        return  # argparse shows all options
    usage = parser.usage.replace("%(prog)s [options]", "")
    missing = [action for action in parser._actions if action.required and action.option_strings]
    missing = [action for action in missing if not any(f" {name} " in usage for name in action.option_strings)]
    words = "".join(f" {action.option_strings[0]} {action.metavar}" for action in missing)
    head = f"usage: {parser.prog}"
    is_long = len(f"{head} [options]{words}{usage}") > 80
    parser.usage = f"%(prog)s [options]{words}" + (f"\n{' ' * len(head)}" if is_long and words else "") + usage


def autocomplete(parser: argparse.ArgumentParser) -> None:
    """Complete the command line where the shell asks for it (argcomplete's variable is set)."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments; of a `config_parser`, `cfg` are the config files and `opts` the KEY VALUE pairs.

    Options may stand before, between and after KEY VALUE pairs.
    """
    _show_required(parser)
    autocomplete(parser)
    takes_pairs = any(action.dest == "opts" for action in parser._actions)
    args, unknown = (parser.parse_known_intermixed_args if takes_pairs else parser.parse_known_args)(argv)
    if unknown:
        hint = " (write config keys without dashes, such as SOLVER.MAX_EPOCH 3)" if "opts" in args else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if "cfg" in args and args.cfg:
        args.cfg, args.opts = split_cfg_arguments(args.cfg, args.opts)
        args.cfg = [*map(paths.expand, args.cfg)]
    return args


def parse_model_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of a `model_parser`: `cfg` the config files, `overrides` KEY VALUE pairs; videos may follow either."""
    _show_required(parser)
    autocomplete(parser)
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_intermixed_args(words[:end])
    rest, args.cfg, args.overrides = args.cfg, [], []
    while rest and (rest[0].endswith((".yaml", ".yml")) or rest[0] in list_recipes()):
        args.cfg.append(paths.expand(rest.pop(0)))
    while len(rest) > 1 and re.fullmatch(KEY, rest[0]):
        args.overrides += [rest.pop(0), rest.pop(0)]
    args.overrides += [word for pair in args.set for word in pair]
    if "videos" in args:
        args.videos = [*map(paths.expand, [*rest, *args.videos, *words[end + 1 :]])]
        if not args.videos:
            parser.error("name a VIDEO, FOLDER or LIST (after -- if its name begins with -)")
    elif rest := rest + words[end:]:
        parser.error(f"{rest[0]!r} is neither a recipe or YAML file nor a config key with its value")
    return args


def load_arguments(args: argparse.Namespace, *overrides: Any) -> dict[str, Any]:
    """The keyword arguments of `load_model` that the command line gives."""
    return {
        "path": args.checkpoint,
        "cfg": args.cfg,
        "overrides": [*args.overrides, *overrides],
        "allow_import": args.allow_import,
        "allow_fetch": args.allow_fetch,
    }


def load_predictor(args: argparse.Namespace, *overrides: Any) -> Any:
    """The `Predictor` that the command line names."""
    from slowfast_uniformer.inference.predictor import load_model

    return load_model(**load_arguments(args, *overrides))


# --------------------------------------------------------------------------------------------------------- output
def table(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as lines of aligned columns: the first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        numbers = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *numbers]).rstrip())
    return "\n".join(lines)


def print_errors(errors: Sequence[str]) -> int:
    """Print one line per error; returns the exit status."""
    for error in errors:
        terminal.show(f"error: {error}", error=True)
    return 2 if errors else 0


def finish(command: Callable[[], int | None]) -> None:
    """Run a command, and end the process with its exit status unless that is 0.

    2: the input is at fault, with one line on standard error. 75: a signal interrupted what the same command
    continues. 130: Ctrl-C. 141: the reader of standard output has closed it.
    """
    terminal.prepare()
    os.environ["MPLBACKEND"] = "agg"  # that of a notebook around this process need not be installed here
    try:
        status = command()
        if failed := terminal.settle():
            raise failed
        if status:
            sys.exit(status)
    except LostRankError as error:
        status = print_errors([str(error)])
        terminal.settle()
        os._exit(status)  # without ending the interpreter, as `launch` explains
    except UserError as error:
        sys.exit(print_errors([str(error)]))
    except signals.Interrupted as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a late one must not replace the exit code
        terminal.show(f"interrupted; {stop.remedy}", error=True)
        sys.exit(signals.EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if error.errno not in FULL:
            raise
        sys.exit(print_errors([f"{error.filename or 'the output'} cannot be written: {error.strerror}"]))
    finally:
        terminal.settle()
