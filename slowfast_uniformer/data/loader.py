"""From a data set to batches on every rank: which video comes when, and how items become a batch."""

import multiprocessing
import multiprocessing.util
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Sampler

from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.distributed import signals, topology
from slowfast_uniformer.errors import UserError


class EpochSampler(Sampler):
    """Yields (epoch, index) for one rank: every `world`-th video of one order that all ranks share.

    Shuffled (training), the order follows from (seed, epoch) alone, so batch k of the whole run holds the
    same videos whatever the number of ranks, and what is left over when the ranks have equally many is
    dropped, as ranks that train must take the same number of steps. Unshuffled, every video comes once and
    ranks may differ by one. `start` is how many of the order all ranks have taken already.
    """

    def __init__(self, length: int, rank: int = 0, world: int = 1, shuffle: bool = False, seed: int = 0):
        self.length, self.rank, self.world, self.shuffle, self.seed = length, rank, world, shuffle, seed
        self.epoch = self.start = 0

    def _slice(self) -> slice:
        left = self.length - self.start
        end = self.start + (left // self.world * self.world if self.shuffle else left)
        return slice(self.start + self.rank, end, self.world)

    def __len__(self) -> int:
        return len(range(self.length)[self._slice()])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        for index in order[self._slice()]:
            yield self.epoch, int(index)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Join items into a batch: `clips` (N, 3, T, H, W) or None, `labels` (N,) or multi-hot (N, K), `videos`
    and `views` (N,), `errors`, and `failed`, the (video, label) of items that hold no clip."""
    read = [item for item in items if item["clips"] is not None]
    counts = torch.tensor([len(item["clips"]) for item in read], dtype=torch.int64)
    return {
        "clips": torch.cat([item["clips"] for item in read]) if read else None,
        "labels": torch.cat([item["targets"] for item in read]) if read else torch.empty(0),
        "videos": torch.tensor([item["video"] for item in read], dtype=torch.int64).repeat_interleave(counts),
        "views": torch.cat([item["views"] for item in read]) if read else torch.empty(0, dtype=torch.int64),
        "errors": [error for item in items for error in item["errors"]],
        "failed": [(item["video"], item["label"]) for item in items if item["clips"] is None],
    }


class Loader(DataLoader):
    """One whose processes hear no signals; before they can say so, PyTorch's own handler would end them."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, worker_init_fn=_begin_worker, **options)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with signals.block_signals():
            return super().__iter__()


def _begin_worker(_: int) -> None:
    signals.ignore_signals()


def _end_workers() -> None:
    """Where Python ends with loading processes left, as after an exception, it asks them by SIGTERM and waits
    for them, for ever, as they ignore it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch would take their end for an accident
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def build_loader(cfg: CfgNode, split: str) -> Loader:
    """The loader of a split for this rank: shuffled whole batches to train, every video once to evaluate."""
    dataset = VideoDataset(cfg, split)
    train = split == "train"
    devices = topology.local_world_size()
    if train:
        if cfg.TRAIN.BATCH_SIZE % devices:
            raise UserError(f"TRAIN.BATCH_SIZE: {cfg.TRAIN.BATCH_SIZE} cannot be divided among {devices} processes")
        batch = cfg.TRAIN.BATCH_SIZE // devices
    else:  # TEST.BATCH_SIZE counts clips; a video's views stay together
        batch = max(1, cfg.TEST.BATCH_SIZE // devices // dataset.views)
    world = topology.world_size()
    if train and len(dataset) < batch * world:
        raise UserError(
            f"TRAIN.BATCH_SIZE: the train list has {len(dataset)} videos, fewer than one batch of {batch * world}"
        )
    sampler = EpochSampler(len(dataset), topology.rank(), world, shuffle=train, seed=cfg.RNG_SEED)
    return loader_of(dataset, sampler, batch)


def loader_of(dataset: VideoDataset, sampler: Sampler, batch: int) -> Loader:
    """Batches of a data set's items, read by processes as its config's DATA_LOADER says."""
    cfg = dataset.cfg
    multiprocessing.util.Finalize(None, _end_workers, exitpriority=0)
    return Loader(
        dataset,
        batch_size=batch,
        sampler=sampler,
        num_workers=cfg.DATA_LOADER.NUM_WORKERS,
        collate_fn=collate,
        drop_last=dataset.split == "train",
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and cfg.NUM_GPUS > 0,
        persistent_workers=cfg.DATA_LOADER.NUM_WORKERS > 0,
        timeout=cfg.DATA_LOADER.TIMEOUT if cfg.DATA_LOADER.NUM_WORKERS > 0 else 0,
    )
