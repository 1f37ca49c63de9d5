"""List, download and check published weights.

    uniformer weights list
    uniformer weights list "k400/*" --json
    uniformer weights fetch uniformer_small_k400_16x4
    uniformer weights fetch --all-of k400/uniformer_s
    uniformer weights verify
    uniformer weights verify copied/uniformer_small_k400_16x4.pth

Weights are downloaded when a config or --checkpoint names them. Fetch them beforehand for a machine without network.
They are looked for in the folder $SLOWFAST_UNIFORMER_WEIGHTS, then in ~/.cache/slowfast_uniformer (or
$XDG_CACHE_HOME/slowfast_uniformer), to which downloads are written.
"""

import argparse
import fnmatch
import json
import os
from collections.abc import Sequence
from typing import Any

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import HelpFormatter, new_parser, parse_arguments, print_errors, table
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.config.recipes import find_config, list_recipes
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.weights import cache, resolve
from slowfast_uniformer.weights.registry import (
    Checkpoint,
    Source,
    checkpoints,
    find_checkpoint,
    released_checkpoint,
    sources_of_file,
)
from slowfast_uniformer.wording import counted

WRONG_SIZE = " (wrong size)"
_GLOBS = "patterns such as 'k400/*' are allowed"


def _add_action(actions: Any, name: str, sentence: str) -> argparse.ArgumentParser:
    description = f"{sentence[0].upper()}{sentence[1:]}."
    return actions.add_parser(name, help=sentence, description=description, formatter_class=HelpFormatter)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("weights", __doc__)
    help_text = "`uniformer weights ACTION --help` has the options of each"
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", help=help_text)
    action = _add_action(actions, "list", "print a table of the published weights")
    help_text = f"print only these names or recipes; {_GLOBS} (default: all)"
    action.add_argument("names", nargs="*", metavar="NAME", help=help_text)
    action.add_argument("--json", action="store_true", help="print JSON: a list with an object for each")
    action = _add_action(actions, "fetch", "download weights that are not on this machine")
    help_text = "names of `uniformer weights list`, or addresses, as MODEL.INIT_FROM takes them"
    action.add_argument("names", nargs="*", type=paths.expand, metavar="NAME", help=help_text)
    help_text = f"download the initial and the released weights of these recipes; {_GLOBS}"
    action.add_argument("--all-of", nargs="+", default=[], metavar="RECIPE", help=help_text)
    action = _add_action(actions, "verify", "read weights on this machine and compare their sizes and hashes")
    help_text = "files that have the names of published ones (default: all in both folders)"
    action.add_argument("files", nargs="*", type=paths.expand, metavar="FILE", help=help_text)
    args = parse_arguments(parser, argv)
    if args.action == "fetch" and not (args.names or args.all_of):
        parser.error("name what to download: a NAME of `uniformer weights list`, or --all-of RECIPE")
    return args


# ------------------------------------------------------------------------------------------------------- list
def chosen(patterns: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints whose name or recipe matches one of the patterns; all without any.

    Raises:
        UserError: a pattern that matches none.
    """
    found: dict[str, Checkpoint] = {} if patterns else checkpoints()
    for pattern in patterns:
        matching = {
            name: checkpoint
            for name, checkpoint in checkpoints().items()
            if any(fnmatch.fnmatchcase(each, pattern) for each in (name, *checkpoint.recipes))
        }
        if not matching:
            raise UserError(f"{pattern!r} is no published checkpoint or recipe; `uniformer weights list` prints all")
        found |= matching
    return list(found.values())


def as_object(checkpoint: Checkpoint) -> dict[str, Any]:
    """What --json prints of a checkpoint. Unknown values are null."""
    found = resolve.local_file(checkpoint)
    return {
        "name": checkpoint.name,
        "recipes": list(checkpoint.recipes),
        "top1": checkpoint.top1,
        "top5": checkpoint.top5,
        "views": checkpoint.views or None,
        "classes": checkpoint.classes or None,
        "classes_certain": checkpoint.classes_certain,
        "note": checkpoint.note,
        "sources": [_source_object(source, checkpoint) for source in checkpoint.sources],
        "here": found.path if found else None,
        "fault": (resolve.unlike_published(found.path) if found else "") or None,
    }


def _source_object(source: Source, checkpoint: Checkpoint) -> dict[str, Any]:
    whole = len(source.sha256) == 64
    return {
        "kind": source.kind,
        "address": source.address,
        "file": source.file,
        "origin": source.origin,
        "size": source.size or None,
        "sha256": source.sha256 if whole else None,
        "sha256_start": source.sha256[:8] or None,
        "certain": source.certain,
        "classes": source.classes or checkpoint.classes or None,
        "failing_since": source.failing_since or source.gone_since or None,
        "tried": not source.gone_since,
    }


def as_row(checkpoint: Checkpoint) -> list[str]:
    """The row of a checkpoint in the table."""
    sources = [source for source in checkpoint.sources if not source.gone_since]
    names = [f"{source.kind if source.origin == 'release' else source.origin}" for source in sources]
    marks = ["" if source.certain and not source.failing_since else "?" for source in sources]
    shown = dict.fromkeys(f"{name}{mark}" for name, mark in zip(names, marks, strict=True))
    found = resolve.local_file(checkpoint)
    top1 = "-" if checkpoint.top1 is None else f"{checkpoint.top1:.1f}"
    recipes = ", ".join(checkpoint.recipes) or "(initial weights)"
    here = os.path.dirname(found.path) if found else "-"
    here += WRONG_SIZE if found and resolve.unlike_published(found.path) else ""
    return [checkpoint.name, recipes, top1, " ".join(shown) or "-", here]


# ------------------------------------------------------------------------------------------------------ fetch
def names_of(patterns: Sequence[str]) -> list[str]:
    """The published weights that recipes start from and resulted in.

    Raises:
        UserError: a pattern that is no recipe's name.
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        recipes = fnmatch.filter(list_recipes(), pattern)
        for recipe in recipes or [os.path.relpath(find_config(pattern))]:
            start = load_config(recipe, runs_here=False).MODEL.INIT_FROM
            for checkpoint in (find_checkpoint(start), released_checkpoint(recipe)):
                if checkpoint and checkpoint.sources:
                    names[checkpoint.name] = None
    if not names:
        raise UserError(f"{', '.join(patterns)}: has no published weights; `uniformer weights list` prints all")
    return list(names)


def fetch(names: Sequence[str]) -> list[str]:
    """Fetch weights one after the other and print their paths. Returns the errors of those that failed."""
    errors = []
    for name in names:
        try:
            found = resolve.resolve(name)
            if fault := resolve.fault_of_copy(found.path):
                errors.append(f"{found.path}: {fault}; {_remedy_of_copy(found.path)}")
                continue
            order = f" (its classes are in the order of {found.classes}.txt)" if found.classes else ""
            print(f"{found.path}{order}", flush=True)
        except UserError as error:
            errors.append(str(error))
    return errors


def _remedy_of_copy(path: str) -> str:
    """What to do with a file that was put there by hand and is not the published one of its name."""
    checkpoint = find_checkpoint(os.path.basename(path))
    name = checkpoint.name if checkpoint else os.path.basename(path)
    return (
        f"it is in the way of the published one: remove or move it and run `uniformer weights fetch {name}`, or copy "
        "it again from where it is whole"
    )


# ----------------------------------------------------------------------------------------------------- verify
def verify(given: Sequence[str] = ()) -> list[str]:
    """Read weights, by default all published ones that are here; print a line for each. Returns the faults."""
    cached = list(cache.cached_files())
    found = filter(None, map(resolve.local_file, checkpoints().values()))
    files = given or dict.fromkeys([*cached, *(each.path for each in found if os.path.isfile(each.path))])
    faults = []
    for path in files:
        fault = _fault(path, path in cached)
        print(f"{path}: {'FAULTY' if fault else 'as published or as first fetched'}", flush=True)
        faults += [f"{path}: {fault}"] if fault else []
    print(f"{counted(len(files), 'file')} read, {len(faults)} faulty")
    return faults


def _fault(path: str, in_cache: bool) -> str:
    """What is wrong with a file, and what to do; "" if nothing."""
    file = os.path.basename(path)
    in_cache = in_cache or os.path.dirname(os.path.abspath(path)) == os.path.abspath(cache.cache_folder())
    if not os.path.isfile(path):
        return "there is no such file"
    if in_cache:
        source = next(iter(sources_of_file(file)), None) or Source("https", file, "address", True, file)
        fault = cache.fault_in_cache(path, source, again=True)
        remedy = "remove the file, then the next use fetches it again; without network, copy it here again"
    elif sources_of_file(file):
        fault = resolve.unlike_published(path, hashed=True)
        remedy = (
            "copy it again from where it is whole, or fetch it where there is network (`uniformer weights fetch`) and "
            "copy it from there"
        )
    else:
        return "no published file has this name, so there is nothing to compare with; give it its published name"
    return f"{fault}; {remedy}" if fault else ""


def main(argv: Sequence[str] | None = None) -> int | None:
    args = parse_args(argv)
    if args.action == "fetch":
        return print_errors(fetch(dict.fromkeys([*args.names, *(names_of(args.all_of) if args.all_of else [])])))
    if args.action == "verify":
        return print_errors(verify(args.files))
    found = chosen(args.names)
    if args.json:
        print(json.dumps([as_object(checkpoint) for checkpoint in found], indent=2))
    else:
        print(table([["name", "recipe", "top-1", "sources", "here"], *map(as_row, found)]))
        print("\n?: not certain to be there, or reported to fail. docs/model_zoo.md has all figures.")
