"""Whether the batch suits the train list and the ranks: steps of an epoch, and notes on too few steps or clips."""

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from slowfast_uniformer.config.recipe_notes import may_have_batch_norms
from slowfast_uniformer.distributed.topology import Topology, clips_per_video
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.wording import counted

FEW_CLIPS = 4  # that batch norms see at once; the released recipes have 8
FEW_STEPS = 10  # of an epoch


def steps_per_epoch(cfg: CfgNode, ranks: Topology, videos: int, source: str = "the train list") -> int:
    """Optimizer steps of an epoch, equally many full batches on every rank, as data/loader.py makes them.

    Args:
        cfg: the config.
        ranks: the run's topology.
        videos: length of the train list.
        source: what an error calls the list.

    Raises:
        UserError: the list is shorter than a global batch.
    """
    batch = ranks.videos_per_step(cfg)
    if videos < batch:
        fewer = ", or use fewer machines" if ranks.machines > 1 else ""
        raise UserError(
            f"TRAIN.BATCH_SIZE: {source} has {counted(videos, 'video')}, fewer than one batch of {batch}; "
            f"set a smaller one{fewer}"
        )
    return videos // ranks.ranks // ranks.videos_per_rank(cfg)


def batch_notes(cfg: CfgNode, ranks: Topology, videos: int) -> Iterator[str]:
    """Notes on a batch that is small for batch norms, and on one that leaves few steps to an epoch of `videos`."""
    steps, batch = steps_per_epoch(cfg, ranks, videos), ranks.videos_per_step(cfg)
    few_steps = steps < FEW_STEPS
    clips, parts = ranks.clips_per_rank(cfg), cfg.TRAIN.ACCUM_STEPS
    if clips // parts < FEW_CLIPS and may_have_batch_norms(cfg):
        yield (
            f"{counted(clips // parts, 'clip')} at a time on each of {counted(ranks.ranks, 'rank')}: batch norms are "
            f"poor with fewer than {FEW_CLIPS}. {' or '.join(_larger_parts(cfg, ranks, few_steps))}"
        )
    if few_steps:
        fewer = "Use fewer machines, a" if ranks.machines > 1 else "Set a"
        yield (
            f"{counted(videos, 'video')} in batches of {batch} are only {counted(steps, 'step')} an epoch, "
            f"{steps * cfg.SOLVER.MAX_EPOCH:,} in all. {fewer} smaller TRAIN.BATCH_SIZE, or more epochs "
            "(SOLVER.MAX_EPOCH)"
        )


def _larger_parts(cfg: CfgNode, ranks: Topology, few_steps: bool) -> list[str]:
    """What gives a rank more clips at a time; a larger batch only where that leaves enough steps."""
    clips = ranks.clips_per_rank(cfg)
    if cfg.TRAIN.ACCUM_STEPS > 1 and clips >= FEW_CLIPS:
        return [f"Set TRAIN.ACCUM_STEPS {max(1, clips // FEW_CLIPS)}"]
    needed = -(-FEW_CLIPS * cfg.TRAIN.ACCUM_STEPS // clips_per_video(cfg))  # videos of a rank
    remedies = []
    if (gpus := min(cfg.TRAIN.BATCH_SIZE // needed, ranks.ranks_per_machine - 1)) >= 1:
        while cfg.TRAIN.BATCH_SIZE % gpus:  # 1 divides every batch
            gpus -= 1
        remedies.append(f"use {counted(gpus, 'GPU')} per machine")
    if not few_steps or not remedies:
        remedies.insert(0, f"set TRAIN.BATCH_SIZE {needed * ranks.ranks_per_machine}, which is per machine")
    return [remedies[0][0].upper() + remedies[0][1:], *remedies[1:]]
