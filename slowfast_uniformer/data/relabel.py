"""Lists whose labels are numbered anew by the folders of their videos; which video is in which list stays."""

import os
from pathlib import Path

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.classes import ClassLookup, names_path, read_class_names
from slowfast_uniformer.data.make_lists import SPLIT_NAMES, SPLITS
from slowfast_uniformer.data.splits import Item, Split
from slowfast_uniformer.errors import UserError

_ANY_LABEL = 2**31 - 1  # as MODEL.NUM_CLASSES: the labels are to be replaced


def relabelled(lists: Path, folder: Path) -> tuple[list[str], Split]:
    """Class names and split of lists (train.csv, val.csv, test.csv), with the class that the folder of each video says.

    Where classes.txt is beside the lists, a class is the first folder of a path that it names. Else it is the first
    folder in which the paths differ, where folders such as train/ and val/ do not count, and labels follow the sorted
    names.

    Raises:
        UserError: There is no list, a line is wrong, or a video has no label or is in no class folder.
    """
    keys = ["DATA.PATH_TO_DATA_DIR", str(lists), "DATA.PATH_PREFIX", str(folder), "MODEL.NUM_CLASSES", _ANY_LABEL]
    cfg = load_config(None, keys, runs_here=False)
    file = names_path(cfg)
    names = read_class_names(file) if file else None
    lookup, split = ClassLookup(names or []), {}
    for name in [name for name in SPLITS if os.path.isfile(annotations.list_path(cfg, name))]:
        split[name] = []
        for row, sample in annotations.read_rows(cfg, name):
            if isinstance(sample, UserError):
                raise sample
            if sample.label == -1:
                raise UserError(f"{row.where}: the video has no label, so there is none to number; move this list away")
            path = os.path.relpath(sample.path, folder)
            start, end = sample.segment or (None, None)
            split[name].append(Item(path, row.where, start, end, sample.group))
    above = {item.path: _folders(item.path) for part in split.values() for item in part}
    shared = 0 if names else len(os.path.commonprefix(list(above.values())))
    for part in split.values():
        for at, item in enumerate(part):
            parts = above[item.path][shared:]
            found = [names[label] for folder in parts if (label := lookup.get(folder)) is not None] if names else parts
            if not found:
                whose = f"a class of {file}" if names else "a class"
                raise UserError(
                    f"{item.label}: no folder of {item.path} is {whose}; correct the line or the class names"
                )
            part[at] = item._replace(label=found[0])
    if "train" not in split:
        raise UserError(f"{lists}: no train.csv; give the folder of lists (DATA.PATH_TO_DATA_DIR)")
    return names or sorted({item.label for part in split.values() for item in part}), split


def _folders(path: str) -> list[str]:
    """The folders above a video that may be a class: not "..", and not those of a split."""
    splits = {name for names in SPLIT_NAMES.values() for name in names}
    return [part for part in Path(path).parts[:-1] if part != ".." and part.lower() not in splits]
