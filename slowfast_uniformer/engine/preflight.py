"""What a run will need later, looked at before its first step: lists, class names, weights, output folder.

Imports no PyTorch: `uniformer train` refuses faulty input before that is loaded.
"""

import glob
import os
from collections.abc import Sequence

from fvcore.common.config import CfgNode

from slowfast_uniformer.data import annotations, shards
from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.data.classes import class_names, visible
from slowfast_uniformer.data.flip_labels import flipped_labels
from slowfast_uniformer.data.list_notes import list_notes
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.weights.registry import find_checkpoint
from slowfast_uniformer.weights.resolve import is_here, resolve, size_note
from slowfast_uniformer.wording import counted

_TRIED = 8  # videos of each list that are looked for


def check_inputs(cfg: CfgNode, only: str = "", fetch: bool = True) -> list[str]:
    """Read all lists and class names that a run needs. Every process does so: it needs them itself, and keeps them.

    Args:
        cfg: The run's config.
        only: "train" or "test"; by default TRAIN.ENABLE and TEST.ENABLE decide.
        fetch: Fetch weights that are not here. False leaves that to the run, with a note; as the run itself comes
            later, there are `weights_notes`, too.

    Returns:
        Notes on numbers that can hardly be right, to be logged.

    Raises:
        UserError: Some input cannot be used.
    """
    training = only == "train" or (not only and cfg.TRAIN.ENABLE)
    testing = only == "test" or (not only and cfg.TEST.ENABLE)
    splits = ["train"] * training + ["val"] * (training and cfg.TRAIN.EVAL_PERIOD > 0) + ["test"] * testing
    lists = {split: annotations.load(cfg, split) for split in splits}
    for split, samples in lists.items():
        _check_videos(annotations.list_path(cfg, split), samples)
    if training:
        _check_class_balance(cfg, lists["train"].used_labels)
    names = class_names(cfg)
    if training and cfg.DATA.FLIP_LABELS:
        flipped_labels(cfg, names)
    _check_output_folder(cfg.OUTPUT_DIR)
    to_fetch = _initial_weights(cfg) if training else []
    to_fetch += _weights_to_test(cfg, training) if testing else []
    notes = list(list_notes(cfg, lists, names))
    for key, name in to_fetch:
        if fetch:
            resolve(name)
        elif not is_here(name):
            notes.append(
                f"{key}: {name} is not on this machine, and is fetched when the run starts. For nodes without network "
                f"run `uniformer weights fetch {name}` here first"
            )
    return notes if fetch else [*notes, *weights_notes(cfg)]


def weights_notes(cfg: CfgNode) -> list[str]:
    """Notes on files of weights that have a published one's name, but not its size. A run says so when it loads them.

    Nothing is read, fetched or refused.
    """
    named = {}
    if cfg.TRAIN.ENABLE and not cfg.TRAIN.CHECKPOINT_FILE_PATH and not _continues(cfg):
        named["MODEL.INIT_FROM"] = cfg.MODEL.INIT_FROM
    if cfg.TEST.ENABLE:
        named["TEST.CHECKPOINT_FILE_PATH"] = cfg.TEST.CHECKPOINT_FILE_PATH
    notes = {key: size_note(name) for key, name in named.items() if name}
    return [f"{key}: {note}" for key, note in notes.items() if note]


def _continues(cfg: CfgNode) -> bool:
    """Whether a training goes on from a checkpoint in OUTPUT_DIR."""
    return cfg.TRAIN.AUTO_RESUME and bool(glob.glob(f"{glob.escape(cfg.OUTPUT_DIR)}/checkpoints/epoch_*"))


def _check_videos(path: str, samples: Sequence[Sample]) -> None:
    """Refuse a list none of whose videos is there, as far as a few of them tell: a wrong prefix, or a mount away."""
    tried = [sample.path for sample in samples[:: -(-len(samples) // _TRIED)]]
    if any("://" in video or shards.exists(video) for video in tried):
        return
    first = tried[0]
    remedy = "Check DATA.PATH_PREFIX and the list"
    if with_ending := sorted(glob.glob(f"{glob.escape(first)}.*")):
        remedy = f"{with_ending[0]} is: write the names of files with their endings"
    elif "\\" in first:
        remedy = "Write the paths as they are on this machine, or relative to DATA.PATH_PREFIX"
    videos = "the video" if len(samples) == 1 else f"all {counted(len(samples), 'video')}"
    looked = (
        f"{videos} tried" if len(tried) == len(samples) else f"{len(tried)} of {counted(len(samples), 'video')} tried"
    )
    raise UserError(
        f"{path}: {looked}, and none is there, the first {visible(first)}. {remedy}; if a disk or mount is away, start "
        "again once it is back"
    )


def _initial_weights(cfg: CfgNode) -> list[tuple[str, str]]:
    """MODEL.INIT_FROM, key and value, where it may have to be fetched, and the run continues from no checkpoint.

    Raises:
        UserError: TRAIN.CHECKPOINT_FILE_PATH is not there; from OUTPUT_DIR an earlier start may have moved it.
    """
    if _continues(cfg):
        return []
    name, given = cfg.MODEL.INIT_FROM, cfg.TRAIN.CHECKPOINT_FILE_PATH
    out = os.path.join(os.path.abspath(cfg.OUTPUT_DIR), "")
    if given and not os.path.exists(given) and not os.path.abspath(given).startswith(out):
        raise UserError(
            f"TRAIN.CHECKPOINT_FILE_PATH: no such file or folder: {given}. Name a checkpoint or a run's folder; "
            "published weights (`uniformer weights list`) are for MODEL.INIT_FROM"
        )
    return [("MODEL.INIT_FROM", name)] if name and not given and not os.path.exists(name) else []


def _check_class_balance(cfg: CfgNode, used: set[int]) -> None:
    """Refuse a sampler or weights that the labels of the train list give nothing to go by."""
    sampler, weights = cfg.DATA.SAMPLER, cfg.SOLVER.CLASS_WEIGHTS
    if not used and sampler != "uniform":
        raise UserError(
            f"DATA.SAMPLER: {sampler} goes by labels, and no video of the train list has one; set DATA.SAMPLER uniform"
        )
    if not used and weights != "none":
        raise UserError("SOLVER.CLASS_WEIGHTS: no video of the train list has a label; set SOLVER.CLASS_WEIGHTS none")
    if isinstance(weights, list) and not any(weights[label] for label in used):
        raise UserError("SOLVER.CLASS_WEIGHTS: all classes that have training videos weigh 0; give some more than 0")


def _weights_to_test(cfg: CfgNode, training: bool) -> list[tuple[str, str]]:
    """TEST.CHECKPOINT_FILE_PATH, key and value, where it may have to be fetched.

    Raises:
        UserError: It is not there; in OUTPUT_DIR it may be what the training is to write.
    """
    path, out = cfg.TEST.CHECKPOINT_FILE_PATH, os.path.join(os.path.abspath(cfg.OUTPUT_DIR), "")
    if not path or os.path.exists(path):
        return []
    if "://" in path or find_checkpoint(path):
        return [("TEST.CHECKPOINT_FILE_PATH", path)]
    if "SLOWFAST_UNIFORMER_WEIGHTS" not in os.environ and not (training and os.path.abspath(path).startswith(out)):
        raise UserError(
            f"TEST.CHECKPOINT_FILE_PATH: no such file or folder: {path}. Name a checkpoint, a run's folder or "
            "published weights (`uniformer weights list`), or leave the key empty to test what is in OUTPUT_DIR"
        )
    return []


def _check_output_folder(folder: str) -> None:
    """A folder that is there can be written to, or created in the nearest one that is there."""
    place = os.path.abspath(folder)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    cause = "Not a directory" if not os.path.isdir(place) else "" if os.access(place, os.W_OK) else "Permission denied"
    if cause:
        raise UserError(f"OUTPUT_DIR: cannot write to {folder} ({place}: {cause}); set OUTPUT_DIR to a writable folder")
