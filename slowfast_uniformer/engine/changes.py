"""What differs between the checkpoint that a run continues from and the run's config and lists."""

from typing import Any

from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader

from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.optim import lr_at
from slowfast_uniformer.engine.state import RunState
from slowfast_uniformer.wording import counted

# Keys, or beginnings of keys, that do not change the result, or differ from machine to machine
_NO_RESULT = (
    "OUTPUT_DIR LOG_PERIOD RECIPE SHARD_ID DIST_ TRACKER TENSORBOARD. DATA_LOADER. TRAIN.ENABLE TRAIN.AUTO_RESUME "
    "TRAIN.CHECKPOINT_ TRAIN.KEEP_CHECKPOINTS TRAIN.MAX_BAD_ TEST.ENABLE TEST.BATCH_SIZE TEST.CHECKPOINT_FILE_PATH "
    "TEST.TEST_BEST TEST.MIN_COVERAGE DATA.PATH_ DATA.CLASS_NAMES DATA.READ_TIMEOUT DATA.MAX_BAD_FRACTION MODEL.INIT_ "
    "MODEL.PROBE_EPOCHS MODEL.PARALLEL MODEL.COMPILE MODEL.USE_CHECKPOINT MODEL.CHECKPOINT_ MODEL.DW_CONV MODEL.LAYOUT"
)
_IGNORED = tuple(_NO_RESULT.split())


def inputs(cfg: CfgNode, loader: DataLoader, val_loader: DataLoader | None) -> dict[str, Any]:
    """What the result depends on besides the config: machines, global batch, and of each list the number of videos and
    a checksum of what it says, in order. A checkpoint holds it."""
    ranks, lists = topology.current(), {}
    for split, one in (("train", loader), ("val", val_loader)):
        if one is not None:
            lists[split] = {"videos": len(one.dataset), "checksum": one.dataset.samples.checksum}
    return {"machines": ranks.machines, "videos_per_step": ranks.videos_per_step(cfg), "lists": lists}


def changes(run: RunState, steps: int) -> list[str]:
    """A line for each thing that has changed since the checkpoint was written; nothing for a run that begins.

    Args:
        run: it knows config and `inputs` of the checkpoint, as far as that has them.
        steps: optimizer steps of a whole epoch.
    """
    cfg, former = run.cfg, run.former
    old, new = dict(flatten(former.get("cfg") or {})), dict(flatten(cfg))
    lines = [
        f"{key}: {old[key]} -> {new[key]}"
        for key in new
        if key in old and old[key] != new[key] and not key.startswith(_IGNORED)
    ]
    then, now = former.get("inputs") or run.inputs, run.inputs
    if then["videos_per_step"] != now["videos_per_step"]:
        lines.append(f"global batch: {then['videos_per_step']} -> {counted(now['videos_per_step'], 'video')}")
    for split, content in now["lists"].items():
        before = then["lists"].get(split, content)
        if before["videos"] != content["videos"]:
            lines.append(f"{split} list: {before['videos']} -> {counted(content['videos'], 'video')}")
        elif before != content:
            lines.append(
                f"{split} list: {counted(content['videos'], 'video')} as before, but other videos, labels or order"
            )
    if not run.complete and "SOLVER" in (former.get("cfg") or {}):
        solver = CfgNode({**cfg.SOLVER, **former["cfg"]["SOLVER"]})  # a checkpoint of an earlier version lacks keys
        scale = then["machines"] if solver.BASE_LR_SCALE_NUM_SHARDS else 1
        position = run.epoch + min(run.samples_seen / (steps * now["videos_per_step"]), 1)
        expected, rate = scale * lr_at(solver, position), topology.current().lr_scale(cfg) * lr_at(cfg.SOLVER, position)
        if expected != rate:
            steps_then = max(then["lists"]["train"]["videos"] // then["videos_per_step"], 1)
            last = scale * lr_at(solver, max(position - 1 / steps_then, 0))
            lines.append(f"learning rate: {last:.3g} at the last step, {rate:.3g} at the next")
    return [f"changed since the checkpoint: {line}" for line in lines]
