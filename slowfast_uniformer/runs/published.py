"""A published model: the folder that `uniformer publish` makes of a run, to be given to others.

Its files are those of `FILES`. No other file in it is ever read, a pickle above all. Imports no PyTorch.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slowfast_uniformer.config.files import read_yaml
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.files import read_text
from slowfast_uniformer.wording import counted

WEIGHTS, CONFIG, CLASSES, METRICS, CARD = "model.safetensors", "config.yaml", "classes.txt", "metrics.json", "README.md"
FILES = (WEIGHTS, CONFIG, CLASSES, METRICS, CARD)
_TELLING = (WEIGHTS, CLASSES, METRICS)  # a run's folder has none of them, unless somebody has put one there


def is_published(folder: str) -> bool:
    """Whether a folder is a published model. One of its files may be missing, which reading it reports."""
    return sum(os.path.isfile(os.path.join(folder, name)) for name in _TELLING) > 1


def read_published(folder: str) -> dict[str, Any]:
    """What stands beside the weights of a published model, under the keys of a checkpoint: `cfg` and `class_names`.

    Raises:
        UserError: a file is missing or damaged, or the classes are not as many as MODEL.NUM_CLASSES.
    """
    for name in (CONFIG, CLASSES):
        if not os.path.isfile(os.path.join(folder, name)):
            raise UserError(
                f"{folder}: this published model lacks its {name}; download the folder again, with all files"
            )
    # The folder may come from anybody, and its config must not choose what else is read or fetched
    cfg = read_yaml(os.path.join(folder, CONFIG), bases=False).content
    path = os.path.join(folder, CLASSES)
    # Nothing is interpreted here, unlike in files that people write: "1 left" is the whole name
    names = [line.removesuffix("\r") for line in read_text(path).removesuffix("\n").split("\n")]
    if "" in names:
        raise UserError(f"{path}, line {names.index('') + 1}: the name of a class is empty; download the file again")
    model = cfg.get("MODEL")
    count = model.get("NUM_CLASSES") if isinstance(model, dict) else None
    if count != len(names):
        raise UserError(
            f"{path}: {counted(len(names), 'class name')}, but MODEL.NUM_CLASSES in {CONFIG} beside it is {count}; "
            "download the folder again, with all files"
        )
    return {"cfg": cfg, "class_names": names}


def check_target(path: str, source: str, force: bool = False) -> None:
    """Refuse a folder that a published model may not replace.

    Args:
        path: the folder to write.
        source: the run or file that is published.
        force: replace also a folder with other files, except one of a run.

    Raises:
        UserError: `path` is a file, holds `source`, the current folder or a run, or files that would be lost.
    """
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path):
        raise UserError(f"{path} is a file; name a folder to write to")
    whole = os.path.realpath(path)
    for inside, what in ((source, "the run or file to publish"), (os.curdir, "the current folder")):
        if os.path.commonpath([whole, os.path.realpath(inside)]) == whole:
            raise UserError(f"{path} holds {what}, which a published model would replace; name another folder")
    if os.path.isdir(os.path.join(path, "checkpoints")):
        raise UserError(f"{path} is the folder of a run, whose checkpoints would be lost; name another folder")
    names = set(os.listdir(path))
    others = names if not is_published(path) else names - {*FILES}
    if others and not force:
        first = ", ".join(sorted(others)[:3]) + (", ..." if len(others) > 3 else "")
        raise UserError(
            f"{path} exists and holds other files ({first}); name another folder, or add --force, which removes them"
        )


@contextmanager
def replaced_folder(path: str) -> Iterator[str]:
    """Yield a new folder beside `path` that takes its place when the block ends without an exception.

    Raises:
        OSError: the folder cannot be written or put in place; what was there before is there still.
    """
    path = os.path.realpath(path)
    parent, name = os.path.split(path)
    temporary = os.path.join(parent, f".{os.getpid()}.{name}")
    former = f"{temporary}.former"
    os.makedirs(temporary)
    try:
        yield temporary
        if os.path.lexists(path):
            os.rename(path, former)  # a folder that is not empty cannot be replaced
        try:
            os.rename(temporary, path)
        except OSError:
            if os.path.lexists(former):
                os.rename(former, path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)
