"""Lists whose labels are numbered anew by the folders of their videos; which video is in which list stays."""

import os
from pathlib import Path

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.classes import ClassLookup, names_path, read_class_names
from slowfast_uniformer.data.make_lists import SPLITS
from slowfast_uniformer.data.splits import Item, Split
from slowfast_uniformer.errors import UserError

_ANY_LABEL = 2**31 - 1  # as MODEL.NUM_CLASSES: the labels are to be replaced


def relabelled(lists: Path, folder: Path) -> tuple[list[str], Split]:
    """Class names and split of lists (train.csv, val.csv, test.csv), with the class that the folder of each video says.

    Where classes.txt is beside the lists, a class is the first folder of a path that it names. Else it is the first
    folder below `folder`, and labels follow the sorted names.

    Raises:
        UserError: There is no list, a line is wrong, or a video is in no class folder.
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
            path = os.path.relpath(sample.path, folder)
            above = [part for part in Path(path).parts[:-1] if part != ".."]
            found = [names[label] for part in above if (label := lookup.get(part)) is not None] if names else above
            if not found:
                whose = f"a class of {file}" if names else "a class"
                raise UserError(f"{row.where}: no folder of {path} is {whose}; correct the line, or the class names")
            start, end = sample.segment or (None, None)
            split[name].append(Item(path, found[0], start, end, sample.group))
    if "train" not in split:
        raise UserError(f"{lists}: no train.csv; give the folder of lists (DATA.PATH_TO_DATA_DIR)")
    return names or sorted({item.label for part in split.values() for item in part}), split
