"""Numbers of lists that can hardly be right: notes before training, each one a line. Nothing of this is an error."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from fvcore.common.config import CfgNode

from slowfast_uniformer.data.classes import ClassLookup
from slowfast_uniformer.data.sample_list import SampleList
from slowfast_uniformer.wording import counted

_SHOWN = 5  # classes that a note names
FEW, MOST = 9, 0.75  # videos of a class that are looked at; the share of them that its folder holds


def list_notes(cfg: CfgNode, lists: Mapping[str, SampleList], names: Sequence[str] | None) -> Iterator[str]:
    """Notes on the lists that a run uses.

    Args:
        cfg: The run's config.
        lists: The samples of each split that is used, of train, val and test.
        names: Class names in label order, or None.
    """
    labels = {split: samples.used_labels for split, samples in lists.items()}
    for split, samples in lists.items():
        yield from _contradictions(cfg, split, samples)
        if len(samples) > 1 and samples[0].part is None and samples.num_paths == 1:
            yield f"all {len(samples)} lines of the {split} list name the same video, {samples[0].path}"
    for split, note in label_order_notes(cfg, lists, names):
        yield f"{split} list: {note}"
    if "train" in lists:
        yield from _training_notes(cfg, labels, names)
    for split in [split for split in ("val", "test") if split in lists]:
        if "train" in lists:
            if unknown := sorted(labels[split] - labels["train"]):
                shown = _classes(unknown, names)
                yield f"the {split} list has {_of(unknown)} that no training video has, and cannot get right: {shown}"
            yield from _overlap(split, lists)
            if shared := sorted(lists[split].groups & lists["train"].groups):
                count = counted(len(lists[split].groups), "group")
                yield (
                    f"{len(shared)} of {count} of the {split} list {'is' if len(shared) == 1 else 'are'} in the train "
                    f"list, too, such as {shared[0]}: `uniformer lists --group-by` keeps groups on one side"
                )
        if cfg.DATA.MULTI_LABEL and not labels[split]:
            best = ", and no checkpoint becomes the best one" if split == "val" else ""
            yield f"no video of the {split} list has a label: its mAP is not defined (nan){best}"


def _contradictions(cfg: CfgNode, split: str, samples: SampleList) -> Iterator[str]:
    """A note on videos that a list has with more than one label. Parts of a video may differ."""
    several: dict[str, str] = {}
    for first, other in [] if cfg.DATA.MULTI_LABEL else samples.contradictions():
        if samples[other].part is None:
            several.setdefault(samples[other].path, f"{samples[first].label} and {samples[other].label}")
    if several:
        path, both = next(iter(several.items()))
        yield f"the {split} list has {counted(len(several), 'video')} with more than one label, such as {path} ({both})"


def half_labelled(samples: SampleList) -> str:
    """A line on a test list where only some videos have a label, or an empty text."""
    labelled = samples.num_labelled
    if labelled in (0, len(samples)):
        return ""
    return f"scores are of the {labelled:,} labelled of {counted(len(samples), 'test video')}; the others have label -1"


def _training_notes(cfg: CfgNode, labels: Mapping[str, set[int]], names: Sequence[str] | None) -> Iterator[str]:
    classes, used, everywhere = cfg.MODEL.NUM_CLASSES, labels["train"], set().union(*labels.values())
    unused = sorted(set(range(classes)) - used)
    if not used:
        yield "no video of the train list has a label: with DATA.MULTI_LABEL all are taken for videos of no class"
    elif len(used) == 1 and not cfg.DATA.MULTI_LABEL:
        only = _classes(sorted(used), names)
        yield f"all training videos are of one class, {only}: nothing can be learnt. Check the labels of the train list"
    elif names is None and everywhere == set(range(len(everywhere))) and len(everywhere) < classes:
        count = len(everywhere)
        yield (
            f"MODEL.NUM_CLASSES is {classes}, but the lists use {count} labels, 0 to {count - 1}; if these are all, "
            f"set MODEL.NUM_CLASSES {count}"
        )
    elif unused == [0]:
        yield f"no training video is of label {_classes([0], names)}: do the labels of the list start at 1?"
    elif unused:
        yield f"{len(unused)} of {counted(classes, 'class')} have no training video: {_classes(unused, names)}"


def label_order_notes(
    cfg: CfgNode, lists: Mapping[str, SampleList], names: Sequence[str] | None
) -> Iterator[tuple[str, str]]:
    """Labels that the folders of the videos contradict, where each class has a folder: a split and what is wrong.

    Shifted or permuted labels are valid, and leave accuracy at chance. The folders tell them apart: in another list the
    same folder has another label, or the folder has the name of a class that has another label.
    """
    folders = {split: _folder_labels(samples) for split, samples in lists.items() if not cfg.DATA.MULTI_LABEL}
    lookup, train = ClassLookup(names or []), folders.get("train", {})
    for split, found in folders.items():
        named = {folder: label for folder in found if (label := lookup.get(folder)) is not None}
        for theirs, whose in ((named, "by the class names"), (train, "in the train list")):
            if wrong := [folder for folder, label in found.items() if theirs.get(folder, label) != label]:
                shown, more = wrong[0], f"; {counted(len(wrong), 'folder')} in all" if len(wrong) > 1 else ""
                yield (
                    split,
                    f"videos of the folder {shown} have label {found[shown]}, but {theirs[shown]} {whose}{more}. "
                    f"{_remedy(cfg, names is None or shown in named)}",
                )
                break


def _remedy(cfg: CfgNode, folders_are_classes: bool) -> str:
    """What to do about labels that the folders contradict; a new split would move training videos into the test.

    Args:
        cfg: The run's config.
        folders_are_classes: Whether the folders have the names of classes, or there are no names.
    """
    lists, videos = cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.PATH_PREFIX
    renumber = "correct the labels or the class names"
    names_beside_lists = not cfg.DATA.CLASS_NAMES  # the command reads no others
    if folders_are_classes and names_beside_lists and videos and os.path.isfile(os.path.join(lists, "train.csv")):
        renumber += (
            f": `uniformer lists {videos} --relabel {lists} --out NEW_FOLDER` numbers the classes of all lists by the "
            "folders, and keeps the split"
        )
    return f"Accuracy will be at chance; {renumber}"


def _folder_labels(samples: SampleList) -> dict[str, int]:
    """The label of each folder where every class has a folder of its own, as far as a few videos of each class tell;
    else {}. A wrong line among many does not matter."""
    labels, videos = samples.label_pairs()
    order = labels.argsort(kind="stable")
    ends = labels[order].searchsorted(sorted(samples.used_labels), side="right").tolist()
    found: dict[str, int] = {}
    for start, end in pairwise([0, *ends]):
        few = [samples[videos[order[at]]] for at in {start + (end - 1 - start) * k // (FEW - 1) for k in range(FEW)}]
        folders = Counter(os.path.basename(os.path.dirname(sample.path)) for sample in few)
        ((folder, count),) = folders.most_common(1)
        if count < MOST * len(few) or not folder or folder in found:
            return {}
        found[folder] = few[0].label
    return found


def _overlap(split: str, lists: Mapping[str, SampleList]) -> Iterator[str]:
    count = lists[split].num_paths
    if shared := lists[split].paths_shared_with(lists["train"]):
        which = "all" if shared == count else f"{shared:,} of the"
        yield (
            f"{which} {counted(count, 'video')} of the {split} list {'is' if shared == 1 else 'are'} in the train "
            "list, too: scores on videos that were trained on say little"
        )


def _of(labels: Sequence[int]) -> str:
    return "a label" if len(labels) == 1 else f"{len(labels)} labels"


def _classes(labels: Sequence[int], names: Sequence[str] | None) -> str:
    shown = ", ".join(f"{label} ({names[label]})" if names else str(label) for label in labels[:_SHOWN])
    return shown + (f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else "")
