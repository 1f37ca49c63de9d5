"""From a data set to batches on every rank: the order of the videos, collation and DataLoader workers."""

import multiprocessing.util
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Sampler

from slowfast_uniformer.data.batch_size import steps_per_epoch
from slowfast_uniformer.data.class_balance import Draws, draws, occurrences
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.raw_clips import join_clips
from slowfast_uniformer.data.workers import kill_workers
from slowfast_uniformer.distributed import signals, topology
from slowfast_uniformer.errors import UserError


class EpochSampler(Sampler):
    """Yields (epoch, index) of this rank's videos: every `world`-th of an order that all ranks share; and
    (epoch, index, n) where the epoch has had the same video n times before, n above 0.

    Shuffled (training), the order is a function of (seed, epoch), so global batch k holds the same videos for
    any number of ranks; the remainder that would give ranks unequal numbers is dropped, as all ranks must take
    the same number of steps. Unshuffled (evaluation), every video comes once and ranks may differ by one.

    With `draws` a shuffled epoch is as long as the list, too, but has some videos several times and others not at all.

    Attributes:
        epoch: The epoch, set by the training loop.
        start: Number of videos of the order that all ranks together have seen already.
    """

    def __init__(
        self,
        length: int,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = False,
        seed: int = 0,
        draws: Draws | None = None,
    ):
        self.length, self.rank, self.world, self.shuffle, self.seed = length, rank, world, shuffle, seed
        self.draws = draws
        self.epoch = self.start = 0

    def _slice(self) -> slice:
        left = self.length - self.start
        end = self.start + (left // self.world * self.world if self.shuffle else left)
        return slice(self.start + self.rank, end, self.world)

    def __len__(self) -> int:
        return len(range(self.length)[self._slice()])

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        rng, order = np.random.default_rng([self.seed, self.epoch]), np.arange(self.length)
        if self.draws and self.shuffle:
            order = self.draws.order(rng)
            for index, number in zip(order[self._slice()], occurrences(order)[self._slice()], strict=True):
                yield (self.epoch, int(index), int(number)) if number else (self.epoch, int(index))
            return
        if self.shuffle:
            rng.shuffle(order)
        for index in order[self._slice()]:
            yield self.epoch, int(index)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Join items of `VideoDataset` into a batch.

    Returns:
        A dict of
            clips: (N, 3, T, H, W) float32, or RawClips of N clips (AUG.DEVICE), or None if no video could be read;
            labels: (N,) int64, or multi-hot (N, K);
            videos, views: (N,) int64, each clip's index in the list and view number;
            errors: the BadVideo of each video that could not be read;
            failed: (video, label) of each item without clips.
    """
    read = [item for item in items if item["clips"] is not None]
    counts = torch.tensor([len(item["clips"]) for item in read], dtype=torch.int64)
    return {
        "clips": join_clips([item["clips"] for item in read]) if read else None,
        "labels": torch.cat([item["targets"] for item in read]) if read else torch.empty(0),
        "videos": torch.tensor([item["video"] for item in read], dtype=torch.int64).repeat_interleave(counts),
        "views": torch.cat([item["views"] for item in read]) if read else torch.empty(0, dtype=torch.int64),
        "errors": [error for item in items for error in item["errors"]],
        "failed": [(item["video"], item["label"]) for item in items if item["clips"] is None],
    }


class Loader(DataLoader):
    """A DataLoader whose workers ignore the signals that end a run: the main process ends them.

    Signals are blocked while workers start, as PyTorch's own handlers would end a worker that does not ignore
    them yet. At exit, workers that are left are killed.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, worker_init_fn=signals.ignore_signals, **options)
        multiprocessing.util.Finalize(None, _kill_at_exit, (weakref.ref(self),), exitpriority=0)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with signals.block_signals():
            return super().__iter__()


def _kill_at_exit(reference: weakref.ref) -> None:
    """Python ends with workers left after an exception; it would send SIGTERM, which they ignore, and wait for
    ever. Other processes that the program has started are not touched."""
    if (loader := reference()) is not None:
        kill_workers(loader._iterator)


def build_loader(cfg: CfgNode, split: str) -> Loader:
    """The loader of a split for this rank: shuffled full batches in training, every video once in evaluation.

    Raises:
        UserError: The list or a DATA key is wrong, or the train list is shorter than a global batch.
    """
    dataset, ranks = VideoDataset(cfg, split), topology.current()
    train = split == "train"
    size, processes = cfg.TRAIN.BATCH_SIZE, ranks.ranks_per_machine
    if train and size % processes:
        raise UserError(f"TRAIN.BATCH_SIZE: {size} cannot be divided among {processes} processes")
    if train:
        steps_per_epoch(cfg, ranks, len(dataset))
    test_videos = max(1, ranks.test_clips_per_rank(cfg) // dataset.views)  # a video's views stay together
    drawn = draws(cfg, dataset.samples) if train else None
    sampler = EpochSampler(len(dataset), topology.rank(), ranks.ranks, train, cfg.RNG_SEED, drawn)
    return loader_of(dataset, sampler, ranks.videos_per_rank(cfg) if train else test_videos)


def loader_of(dataset: VideoDataset, sampler: Sampler, batch: int) -> Loader:
    """A loader of `batch` videos at a time, with the workers that the config's DATA_LOADER asks for."""
    options = dataset.cfg.DATA_LOADER
    return Loader(
        dataset,
        batch_size=batch,
        sampler=sampler,
        num_workers=options.NUM_WORKERS,
        collate_fn=collate,
        drop_last=dataset.split == "train",
        pin_memory=options.PIN_MEMORY and dataset.cfg.NUM_GPUS > 0,
        persistent_workers=options.NUM_WORKERS > 0,
        timeout=options.TIMEOUT if options.NUM_WORKERS > 0 else 0,
    )
