"""Giving a trained model away: a folder without pickles and without facts about this machine, or its upload."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import yaml
from fvcore.common.config import CfgNode

from slowfast_uniformer import __version__
from slowfast_uniformer.config.keys import flatten, set_key
from slowfast_uniformer.config.load import PATHS, to_dict
from slowfast_uniformer.data import annotations
from slowfast_uniformer.errors import UserError, os_errors_reported
from slowfast_uniformer.inference.model_card import model_card
from slowfast_uniformer.inference.predictor import Predictor, load_model
from slowfast_uniformer.inference.publish_checks import check_arguments, checked_license
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.files import Row, read_json_lines
from slowfast_uniformer.runs.log import Phase
from slowfast_uniformer.runs.published import (
    CARD,
    CLASSES,
    CONFIG,
    FILES,
    METRICS,
    WEIGHTS,
    is_published,
    replaced_folder,
)
from slowfast_uniformer.weights import hub
from slowfast_uniformer.weights.convert import write_safetensors

# Keys about a machine, lists or a log. They and the keys of paths are not in what is published.
_LEFT_OUT = ("NUM_GPUS", "NUM_SHARDS", "SHARD_ID", "DIST_", "DATA_LOADER.", "TENSORBOARD.", "TRACKER", "LOG_PERIOD")
_LEFT_OUT += ("DATA.PATH_LABEL_SEPARATOR", "TRAIN.AUTO_RESUME")
_PATH = re.compile(r"[/~$\\]|[A-Za-z]:[\\/]|file:")  # how a path of one machine begins
_SPLITS = {"val_epoch": "validation", "test_final": "test"}
_FIGURES = ("top1_acc", "top5_acc", "mean_class_acc", "map", "num_videos", "num_labelled", "coverage")


def publish(
    run: str,
    target: str,
    license: str | None = None,
    *,
    data: str = "",
    figures: Sequence[str] = (),
    private: bool = False,
    force: bool = False,
    **load: Any,
) -> list[str]:
    """Write a trained model as a folder that `load_model` reads anywhere, or upload it to the Hugging Face hub.

    The folder has model.safetensors (the EMA weights if there are any), config.yaml (without paths and machines),
    classes.txt, metrics.json and README.md, the model card. Before it gets its name it is loaded and compared.

    Args:
        run: a run's folder, of which the checkpoint is taken that its own test takes (the latest, or the best where
            its config.yaml sets TEST.TEST_BEST); a checkpoint or file of weights; or a published folder, which is
            uploaded as it is.
        target: the folder to make, or hf://USER/NAME.
        license: the licence's identifier, such as "apache-2.0"; None for a published folder, whose card has one.
        data: what the card says of the data, in Markdown.
        figures: folders with a metrics.jsonl of tests of this checkpoint, besides the run's own.
        private: only its owner sees a repository that is made.
        force: replace a folder or repository that holds something else.
        load: `cfg`, `overrides` and `allow_import` of `load_model`.

    Returns:
        Lines for people: what was taken, and where it is now.

    Raises:
        UserError: no licence, no class names, a target that may not be replaced, a path in MODEL.ARGS, or what
            `load_model` and the hub raise; nothing is written then.
    """
    check_arguments(run, target, license, private, force)
    if is_published(run):
        load_model(run, **load)  # to upload nothing that cannot be read
        return [f"{run}: uploaded to {hub.upload(run, target, private, force)}"]
    path = checkpoints.find_checkpoint(run)
    model = load_model(path, **load)
    values = _values_of_run(path)
    facts = _facts(model, values, _recorded(path, values.get("step"), model.cfg.OUTPUT_DIR, figures))
    to_hub = target.startswith(hub.SCHEME)
    name = target.removeprefix(hub.SCHEME) if to_hub else os.path.basename(os.path.abspath(target))
    card = {"license": checked_license(license), "data": data, "name": name}
    card["address"] = target if to_hub else "path/of/this/folder"
    with os_errors_reported(f"cannot write {target}"), _new_folder(target) as folder:
        _write(folder, model, facts, card)
        with Phase("load what was written, and compare"):
            _verify(folder, model)
        where = f"uploaded to {hub.upload(folder, target, private, force)}" if to_hub else target
    return [_what_was_taken(path, facts), f"{where}: {', '.join(FILES)}"]


def _what_was_taken(path: str, facts: dict[str, Any]) -> str:
    taken = facts["checkpoint"]
    after = f" after epoch {taken['epoch']} (step {taken['step']})" if taken else ""
    kind = "EMA weights" if taken.get("ema") else "weights"
    return f"{path}: {kind}{after}, {facts['parameters'] / 1e6:.1f} M parameters"


def _values_of_run(path: str) -> dict[str, Any]:
    """Of a run's checkpoint `epoch`, `step` and `ema` (whether there are EMA weights); of other files nothing."""
    try:
        state = checkpoints.load_checkpoint(path, only=())
    except UserError:
        return {}
    return {"epoch": state["epoch"], "step": state.get("step"), "ema": state.get("ema_state") is not None}


# ------------------------------------------------------------------------------------------------------- figures
def _recorded(path: str, step: int | None, output_dir: str, further: Sequence[str]) -> list[Row]:
    """The figures of a checkpoint: the last ones of each split and number of views.

    Args:
        path: the checkpoint.
        step: its optimizer steps, by which rows belong to it; None for a file that is no run's.
        output_dir: what the run's folder was called when it was trained.
        further: folders with a metrics.jsonl besides that of the run.
    """
    checkpoint_folder = os.path.dirname(os.path.abspath(path))
    run = os.path.dirname(checkpoint_folder)
    own = os.path.join(run, "metrics.jsonl")
    rows: list[Row] = []
    if checkpoint_folder == checkpoints.checkpoint_dir(run) and os.path.isfile(own):
        rows = [row for row in read_json_lines(own) if _is_of_run(row, (run, output_dir))]
    for folder in further:
        file = os.path.join(folder, "metrics.jsonl")
        if not os.path.isfile(file):
            raise UserError(f"--figures {folder}: holds no metrics.jsonl; name the OUTPUT_DIR of a test")
        tests = [row for row in read_json_lines(file) if row.get("split") == "test_final" and row.get("step") == step]
        if step is None or not tests:
            raise UserError(
                f"--figures {folder}: no test of {path} (step {step}) is recorded there; test it with that OUTPUT_DIR, "
                "or leave the folder out"
            )
        rows += tests
    rows = [row for row in rows if row.get("split") in _SPLITS and step is not None and row.get("step") == step]
    return [_as_figures(row) for row in {(row["split"], row.get("views")): row for row in rows}.values()]


def _is_of_run(row: Row, names: Sequence[str]) -> bool:
    """Whether a row is about a run, by what its folder is or was called, and not about another's checkpoint that was
    tested there."""
    tested = os.path.dirname(os.path.dirname(os.path.normpath(str(row.get("checkpoint", "")))))
    return not tested or os.path.basename(tested) in [os.path.basename(os.path.normpath(name)) for name in names]


def _as_figures(row: Row) -> Row:
    views = "1 x 1" if row["split"] == "val_epoch" else row.get("views")
    return {"split": _SPLITS[row["split"]], "views": views, **{key: row[key] for key in _FIGURES if key in row}}


# --------------------------------------------------------------------------------------------------------- files
def _facts(model: Predictor, values: dict[str, Any], figures: list[Row]) -> dict[str, Any]:
    """What metrics.json holds: the model, what it takes, figures with views, versions."""
    cfg = model.cfg
    if model.names == [*map(str, range(len(model.names)))] and annotations.class_names(cfg) is None:
        raise UserError(
            f"{model.path}: its class names are not known, without which nobody can use it. Name a file of them: "
            "--set DATA.CLASS_NAMES FILE"
        )
    return {
        "model": cfg.MODEL.MODEL_NAME,
        "classes": len(model.names),
        "multi_label": cfg.DATA.MULTI_LABEL,
        "parameters": sum(value.numel() for value in model.model.parameters()),
        "checkpoint": values,
        "clip": {
            "frames": cfg.DATA.NUM_FRAMES,
            "crop": cfg.DATA.TEST_CROP_SIZE,
            "sampling": annotations.format_of(cfg, "test").sampling,
            "rate": cfg.DATA.SAMPLING_RATE,
        },
        "views": f"{cfg.TEST.NUM_ENSEMBLE_VIEWS} x {cfg.TEST.NUM_SPATIAL_CROPS}",
        "figures": figures,
        "versions": {"slowfast_uniformer": __version__, "torch": torch.__version__},
    }


def published_config(cfg: CfgNode) -> dict[str, Any]:
    """A config as nested dicts, without keys of paths, of lists and of a machine.

    Raises:
        UserError: another key holds a path of this machine.
    """
    kept = CfgNode()
    for key, value in flatten(to_dict(cfg)):
        if key in PATHS or key.startswith(_LEFT_OUT):
            continue
        for name, text in _texts(key, value):
            if _PATH.match(text):
                raise UserError(
                    f"{name}: {text!r} looks like a path of this machine, which would be given away; set another "
                    f"value with --set {name} VALUE"
                )
        set_key(kept, key, value)
    return to_dict(kept)


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a value, with the key it is under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(f"{key}.{name}", item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(key, item)


def _new_folder(target: str) -> AbstractContextManager[str]:
    """A folder to write to, which then is `target`, or is removed after an upload."""
    return tempfile.TemporaryDirectory() if target.startswith(hub.SCHEME) else replaced_folder(target)


def _write(folder: str, model: Predictor, facts: dict[str, Any], card: dict[str, Any]) -> None:
    place = Path(folder)
    metadata = {"published": __version__, "arithmetic": getattr(model.model, "vit_variant", None) or {}}
    metadata |= {"step": facts["checkpoint"]["step"]} if facts["checkpoint"].get("step") else {}
    with Phase(f"write {WEIGHTS}"):
        write_safetensors(str(place / WEIGHTS), model.model.state_dict(), metadata)
    config = yaml.safe_dump(published_config(model.cfg), sort_keys=False, allow_unicode=True)
    texts = {
        CONFIG: f"# Written by slowfast_uniformer {__version__}: the model, its training and its views.\n{config}",
        CLASSES: "".join(f"{name}\n" for name in _names_in_lines(model)),
        METRICS: json.dumps(facts, indent=2, ensure_ascii=False) + "\n",
        CARD: model_card(facts | card | {"import": model.cfg.MODEL.IMPORT}),
    }
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8", newline="")


def _names_in_lines(model: Predictor) -> list[str]:
    """The class names, of which each is one line."""
    return [" ".join(re.split("[\r\n]+", name)) for name in model.names]


def _verify(folder: str, model: Predictor) -> None:
    """Refuse to publish what is not read as the same model."""
    again = load_model(folder, allow_import=True)  # the module, if any, is imported already
    same = again.checksum == model.checksum and again.names == _names_in_lines(model)
    if not same or published_config(again.cfg) != published_config(model.cfg):
        raise UserError(f"{model.path}: what was written is not read as the same model; nothing is published")
