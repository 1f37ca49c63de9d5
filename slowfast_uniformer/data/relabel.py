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
    found: dict[str, list[tuple[str, Item]]] = {}  # with the place of each line; the labels are still missing
    for split in [split for split in SPLITS if os.path.isfile(annotations.list_path(cfg, split))]:
        found[split] = []
        for row, sample in annotations.read_rows(cfg, split):
            if isinstance(sample, UserError):
                raise sample
            if sample.label == -1:
                raise UserError(f"{row.where}: the video has no label, so there is none to number; move this list away")
            start, end = sample.segment or (None, None)
            path = os.path.relpath(sample.path, folder)
            found[split].append((row.where, Item(path, "", start, end, sample.group)))
    above = {item.path: _folders(item.path) for lines in found.values() for _, item in lines}
    if names:
        lookup = ClassLookup(names)
        classes = {path: _class_of(folders, names, lookup) for path, folders in above.items()}
    else:
        classes = _first_that_differ(above)
    for where, item in (line for lines in found.values() for line in lines):
        if not classes[item.path]:
            whose = f"a class of {file}" if names else "a class"
            raise UserError(f"{where}: no folder of {item.path} is {whose}; correct the line or the class names")
    if "train" not in found:
        raise UserError(f"{lists}: no train.csv; give the folder of lists (DATA.PATH_TO_DATA_DIR)")
    splits = {split: [item._replace(label=classes[item.path]) for _, item in lines] for split, lines in found.items()}
    return names or sorted(set(classes.values())), splits


def _class_of(folders: list[str], names: list[str], lookup: ClassLookup) -> str:
    """The class that the first of the folders names; "" if none does."""
    return next((names[label] for folder in folders if (label := lookup.get(folder)) is not None), "")


def _first_that_differ(above: dict[str, list[str]]) -> dict[str, str]:
    """For each path the first of its folders that not all paths share; "" if there is none."""
    shared = len(os.path.commonprefix(list(above.values())))
    return {path: next(iter(folders[shared:]), "") for path, folders in above.items()}


def _folders(path: str) -> list[str]:
    """The folders above a video that may be a class: not "..", and not those of a split."""
    splits = {name for names in SPLIT_NAMES.values() for name in names}
    return [part for part in Path(path).parts[:-1] if part != ".." and part.lower() not in splits]
