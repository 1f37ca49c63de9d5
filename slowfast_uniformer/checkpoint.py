"""One save and one load for a run's checkpoints.

A checkpoint is a dict of plain values and tensors (read with `weights_only=True`): `model_state`,
`ema_state`, `optimizer_state`, `scaler_state`, `epoch` (epochs done), `step`, `best_top1`, `skipped_steps`,
`class_names`, `arithmetic` (of an image ViT, see models/dialects.py), `cfg`. Where a run starts from is
decided in this order: own last checkpoint (TRAIN.AUTO_RESUME), given checkpoint (TRAIN.CHECKPOINT_FILE_PATH),
initial weights (MODEL.INIT_FROM), scratch.
"""

import os
import re

import torch

from slowfast_uniformer.errors import UserError

_NAME = re.compile(r"epoch_(\d+)\.pyth$")


def folder(output_dir: str) -> str:
    return os.path.join(output_dir, "checkpoints")


def path_of_epoch(output_dir: str, epochs_done: int) -> str:
    return os.path.join(folder(output_dir), f"epoch_{epochs_done:05d}.pyth")


def path_of_best(output_dir: str) -> str:
    return os.path.join(folder(output_dir), "best.pyth")


def newest(output_dir: str) -> str | None:
    """The checkpoint of the most epochs in a run's folder, or None."""
    names = os.listdir(folder(output_dir)) if os.path.isdir(folder(output_dir)) else []
    found = [(int(match.group(1)), name) for name in names if (match := _NAME.search(name))]
    return os.path.join(folder(output_dir), max(found)[1]) if found else None


def save(path: str, state: dict) -> None:
    """Write beside, flush, rename: an interruption leaves the former file or the whole new one."""
    beside = path + ".tmp"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(beside, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        if os.path.exists(beside):
            os.remove(beside)
        raise UserError(
            f"cannot write the checkpoint {path}: {error}. Free space or set OUTPUT_DIR"
        ) from None


def load(path: str) -> dict:
    """Read a run's checkpoint onto the CPU. UserError for a missing, damaged or foreign file."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes happen to trigger
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a readable checkpoint ({cause}); remove it to use the one before"
        ) from None
    if not isinstance(state, dict) or not {"model_state", "optimizer_state", "epoch"} <= state.keys():
        raise UserError(
            f"{path}: not a checkpoint of a run of this program; to start from weights, set MODEL.INIT_FROM"
        )
    return state
