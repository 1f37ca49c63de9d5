"""A test of published weights: the order of their classes, and published figures against measured ones."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.config.recipes import labels_folder
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.classes import ClassLookup, comparable, names_path, read_class_names
from slowfast_uniformer.data.sample_list import SampleList
from slowfast_uniformer.runs.files import Row
from slowfast_uniformer.weights.registry import Checkpoint
from slowfast_uniformer.weights.resolve import Found

FIGURES = {"top1": "top-1", "top5": "top-5"}
NEAR_CHANCE = 3  # times the accuracy of chance: what a wrong order of classes leaves is below
# What the figures depend on, besides the weights and the list; and what of that they do not
_RESULT = ("DATA.", "MODEL.", "UNIFORMER", "TEST.", "TRAIN.MIXED_PRECISION")
_NO_RESULT = (
    "TEST.BATCH_SIZE TEST.MIN_COVERAGE DATA.PATH_TO_DATA_DIR DATA.CLASS_NAMES DATA.READ_TIMEOUT DATA.MAX_BAD_FRACTION "
    "MODEL.USE_CHECKPOINT MODEL.CHECKPOINT_ MODEL.PARALLEL MODEL.COMPILE MODEL.DW_CONV MODEL.LAYOUT"
)
_IGNORED = tuple(_NO_RESULT.split())


# --------------------------------------------------------------------------------------------- order of classes
def match_classes(
    found: Found, cfg: CfgNode, names: Sequence[str] | None, stored: Sequence[str] | None, init_head: str
) -> tuple[list[str] | None, str]:
    """Compare the order of a published classifier's rows with that of the data.

    Args:
        found: the published weights.
        names: class names of the data in label order; None where it has none.
        stored: those that the file of the weights itself holds, which win over what is known of the published ones.
        init_head: the MODEL.INIT_HEAD that the weights are loaded with.

    Returns:
        The class names of the rows, written as the data writes them where they differ in case, spaces, underscores and
        hyphens alone; None where they are not known. And what is known of both orders, in words.
    """
    theirs = list(stored) if stored else found.class_names
    if init_head.startswith("map:"):
        return theirs, f"the rows of the weights are taken as MODEL.INIT_HEAD {init_head} says"
    if theirs is None:
        return None, "not known for these weights, and assumed to be that of the lists"
    order = f"{found.classes}.txt" + ("" if found.classes_certain else " (not checked)")
    order = "that of the names in the file of weights" if stored else order
    if not names:
        return theirs, f"{order}; the lists name no classes, and their order is taken to be the same"
    lookup = ClassLookup(names)
    labels = [lookup.get(name) for name in theirs]
    theirs = [name if label is None else names[label] for name, label in zip(theirs, labels, strict=True)]
    if comparable(theirs) == comparable(names):
        return theirs, f"{order}, and {names_path(cfg)} has the same"
    return theirs, f"{order}; the classifier was reordered by name to that of {names_path(cfg)}"


def _doubt(row: Mapping[str, Any], found: Found, cfg: CfgNode) -> str:
    """What to do where the accuracy is about that of chance, which a wrong order of classes explains; else ""."""
    classes, top1, published = cfg.MODEL.NUM_CLASSES, row.get("top1_acc"), found.checkpoint.top1 or 100.0
    if top1 is None or not top1 < NEAR_CHANCE * 100 / classes < published:
        return ""
    own, name = names_path(cfg), found.checkpoint.name
    orders = " or ".join(_orders_of(classes)) or "a file of names"
    if own:
        remedy = f"Check that {own} names the labels of {annotations.list_path(cfg, 'test')} in their order"
    else:
        remedy = f"Name the classes in the order of your labels: DATA.CLASS_NAMES FILE, such as {orders}"
    if not found.classes_certain:
        remedy += (
            f". If that is right, the weights have another order than {found.classes or 'your lists'}: try "
            f"MODEL.INIT_FROM {name} MODEL.INIT_HEAD map:FILE, where FILE names its classes in order, such as {orders}"
        )
    return (
        f"top-1 is about that of chance ({top1:.2f} % of {classes} classes): most likely the order of classes of the "
        f"lists is not the one that was assumed ({row['class_order']}). {remedy}"
    )


def _orders_of(count: int) -> list[str]:
    """The files in datasets/labels that have this many classes."""
    files = sorted(labels_folder().glob("*.txt"))
    return [str(file) for file in files if len(read_class_names(str(file))) == count]


# ---------------------------------------------------------------------------------------------------- comparison
def views(cfg: CfgNode) -> str:
    """The views of a test as they are published: frames x crops x clips."""
    return f"{cfg.DATA.NUM_FRAMES}x{cfg.TEST.NUM_SPATIAL_CROPS}x{cfg.TEST.NUM_ENSEMBLE_VIEWS}"


def published_row(
    found: Found, cfg: CfgNode, samples: SampleList, names: Sequence[str] | None, metrics: Row, class_order: str
) -> Row:
    """What a test of a published checkpoint records besides its metrics.

    Returns:
        those of `published_figures`; `class_order`, in words; `doubt`, where the figures can hardly be right;
        `settings`, a checksum.
    """
    row = {**published_figures(found.checkpoint), "class_order": class_order}
    if doubt := _doubt({**metrics, **row}, found, cfg):
        row["doubt"] = doubt
    return {**row, "settings": settings(cfg, samples, names)}


def published_figures(checkpoint: Checkpoint) -> Row:
    """`published`, the checkpoint's name; and as far as they are published `published_top1` and `published_top5`, in
    per cent, and `published_views`."""
    known = {f"published_{key}": getattr(checkpoint, key) for key in (*FIGURES, "views")}
    return {"published": checkpoint.name, **{key: value for key, value in known.items() if value}}


def settings(cfg: CfgNode, samples: SampleList, names: Sequence[str] | None) -> str:
    """A checksum of what the figures of a checkpoint depend on: config, list and class names."""
    values = {key: value for key, value in flatten(cfg) if key.startswith(_RESULT) and not key.startswith(_IGNORED)}
    text = json.dumps([values, len(samples), samples.checksum, names], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def comparison(row: Row, cfg: CfgNode) -> list[str]:
    """Lines that show published and measured figures side by side; none for a row of other weights."""
    if "published" not in row:
        return []
    lines = [f"{row['published']:<32} {'published':>10} {'measured':>10} {'difference':>11}"]
    for key, title in FIGURES.items():
        published, measured, difference = cells(row, key)
        lines.append(f"  {title:<30} {published:>10} {measured:>10} {difference:>11}")
    lines.append(f"  {'views (frames x crops x clips)':<30} {row.get('published_views', '-'):>10} {views(cfg):>10}")
    if departs := other_views(row, cfg):
        lines.append(f"  the figures do not compare: {departs}")
    lines.append(f"  order of classes: {row['class_order']}")
    return lines


def cells(row: Row, key: str) -> list[str]:
    """Published, measured and difference of a figure, in per cent; a dash for what is not known."""
    published, measured = row.get(f"published_{key}"), row.get(f"{key}_acc")
    shown = ["-" if value is None else f"{value:.2f}" for value in (published, measured)]
    return [*shown, "-" if "-" in shown else f"{measured - published:+.2f}"]


def other_views(row: Row, cfg: CfgNode) -> str:
    """What is to be said where the test has other views than the published figures; else ""."""
    published = row.get("published_views")
    if not published or published == views(cfg):
        return ""
    return f"measured with {views(cfg)} views, published for {published}"
