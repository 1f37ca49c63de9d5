"""What commands share: argument parsers, tables, and the exit status of an error."""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from slowfast_uniformer import paths, terminal
from slowfast_uniformer.config.load import split_cfg_arguments
from slowfast_uniformer.config.recipes import list_recipes
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.errors import LostRankError, UserError

KEYS = "Config keys are explained in docs/config.md; `uniformer config --cfg FILE` prints the values of a config."
KEY = r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*"  # what a config key looks like

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a disk that takes no more


# ------------------------------------------------------------------------------------------------------ arguments
def new_parser(command: str, description: str, usage: str = "") -> argparse.ArgumentParser:
    """A parser of `uniformer COMMAND`; for one with a config, `usage` is what follows the options."""
    return argparse.ArgumentParser(
        prog=f"uniformer {command}",
        description=description,
        usage=f"%(prog)s [options] {usage}" if usage else None,
        epilog=KEYS if usage else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def config_parser(command: str, description: str, required: bool = True) -> argparse.ArgumentParser:
    """A parser with `--cfg` and the KEY VALUE pairs that follow; `parse_arguments` separates them."""
    parser = new_parser(command, description, "--cfg FILE.yaml [FILE.yaml ...] [KEY VALUE ...]")
    help_text = "config files or names of recipes (uniformer config), later ones override earlier ones"
    parser.add_argument("--cfg", nargs="+", required=required, metavar="FILE.yaml", help=help_text)
    parser.add_argument("opts", nargs="*", help=argparse.SUPPRESS)
    return parser


def model_parser(
    command: str, description: str, videos: bool = True, model: Sequence[str] = ("--checkpoint",)
) -> argparse.ArgumentParser:
    """A parser with the arguments of a trained model and, optionally, `videos`; `parse_model_arguments` reads them.

    `model` are the names of the option that gives the model.
    """
    usage = "--checkpoint FILE" + (" VIDEO|FOLDER|LIST [...]" if videos else "")
    parser = new_parser(command, description, usage)
    add = parser.add_argument
    help_text = "a checkpoint, a run's or published folder, hf://USER/NAME, a recipe's or weights' name, or a file"
    add(*model, required=True, metavar="FILE", help=help_text)
    help_text = "config files or names of recipes (a run's checkpoint has its own), and KEY VALUE pairs after them"
    add("--cfg", nargs="+", default=[], metavar="FILE.yaml", help=help_text)
    help_text = "override a config key; repeatable"
    add("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help=help_text)
    help_text = "import the module that the checkpoint's config names (MODEL.IMPORT)"
    add("--allow-import", action="store_true", help=help_text)
    add("--allow-fetch", action="store_true", help="fetch from addresses that the checkpoint's config names")
    if videos:
        add("videos", nargs="*", metavar="VIDEO", help="video files, folders, or lists")
    return parser


def positive(kind: type) -> Callable[[str], Any]:
    """An argument type: a number of this kind above 0."""

    def read(text: str) -> Any:
        if (value := kind(text)) <= 0:
            raise ValueError
        return value

    read.__name__ = f"positive {kind.__name__}"  # for argparse's message
    return read


def autocomplete(parser: argparse.ArgumentParser) -> None:
    """Complete the command line where the shell asks for it (argcomplete's variable is set)."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments; of a `config_parser`, `cfg` are the config files and `opts` the KEY VALUE pairs."""
    autocomplete(parser)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        hint = " (config keys and values stand without dashes: SOLVER.MAX_EPOCH 3)" if "opts" in args else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if "cfg" in args and args.cfg:
        args.cfg, args.opts = split_cfg_arguments(args.cfg, args.opts)
        args.cfg = [*map(paths.expand, args.cfg)]
    return args


def parse_model_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of a `model_parser`: `cfg` the config files, `overrides` KEY VALUE pairs; videos may follow either."""
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
            parser.error("no VIDEO, FOLDER or LIST is given (write -- before one whose name begins with -)")
    elif rest := rest + words[end:]:
        parser.error(f"{rest[0]!r} is neither a YAML file nor a KEY with its VALUE")
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
