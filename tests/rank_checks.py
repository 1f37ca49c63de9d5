"""What tests run on two ranks. One pair of spawned processes runs many checks, as starting it takes longest."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.multiprocessing as mp
from device_reads import DeviceReads
from fvcore.common.config import CfgNode
from torch.utils._pytree import tree_leaves

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.distributed import collectives, launch, parallel, topology
from slowfast_uniformer.engine.class_balance import balance_classes
from slowfast_uniformer.engine.probe import fit_classifiers
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.step import training_step
from slowfast_uniformer.engine.test import test
from slowfast_uniformer.engine.train import train
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.recorder import Recorder


def run_on_two_ranks(folder: Path, checks: dict[str, tuple]) -> dict[str, list]:
    """Call functions of this module on two ranks over gloo, one after the other.

    Args:
        folder: for the results.
        checks: name -> (function, *arguments).

    Returns:
        name -> of each rank, (result, what was written to standard error).
    """
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_rank, (f"tcp://127.0.0.1:{launch._free_port()}", checks, folder), nprocs=2)
    return {name: [torch.load(folder / f"{name}.{rank}", weights_only=False) for rank in range(2)] for name in checks}


def _rank(local: int, address: str, checks: dict[str, tuple], folder: Path) -> None:
    torch.set_num_threads(1)
    topology.set_rank_env(local, 2, 1, 0)
    cfg = load_config(None, ["NUM_GPUS", 0, "DIST_TIMEOUT", 120])
    launch._run_in_group(partial(_run_checks, checks=checks, folder=folder), cfg, address)


def _run_checks(_cfg: CfgNode, checks: dict[str, tuple], folder: Path) -> None:
    for name, (function, *arguments) in checks.items():
        path = folder / f"{name}.{topology.rank()}"
        with _stderr_to(f"{path}.err"):
            result = function(*arguments)
        torch.save((result, Path(f"{path}.err").read_text()), path)


@contextmanager
def _stderr_to(path: str) -> Iterator[None]:
    """Send standard error to a file, C++'s too."""
    saved = os.dup(2)
    with open(path, "w") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _refuse() -> None:
    raise UserError("refused on rank 0")


def use_collectives() -> dict:
    """Every collective of the package, with values that differ between ranks."""
    rank = topology.rank()
    flags = collectives.AllReducedFlags()
    reduced = [flags(rank == 1, False), flags(False, rank == 0), flags(False, False)]
    tensor = torch.full((2,), float(rank))
    collectives.broadcast_tensors([tensor])
    try:
        collectives.call_on_main(_refuse)
        error = ""
    except UserError as refused:
        error = str(refused)
    return {
        "flags": reduced,
        "tensor": tensor.tolist(),
        "object": collectives.broadcast_object({"rank": rank}),
        "on_main": collectives.call_on_main(topology.rank),
        "error": error,
        "mean": collectives.all_reduce_mean(torch.tensor(float(rank))).item(),
        "gathered": collectives.all_gather_objects(rank),
    }


def take_steps(options: list, *counts: int) -> dict:
    """Take training steps with each rank holding its share of each batch; also without ranks.

    After each of `counts` steps a checkpoint is written, and the folder copied to OUTPUT_DIR_after_STEP.

    Returns:
        `losses` of all ranks' batches, and the full `state` of the model.
    """
    cfg = load_config(None, options)
    run = start_run(cfg, None, lambda net: fit_classifiers(net, build_loader(cfg, "train"), cfg))
    balance_classes(run, build_loader(cfg, "train"), Recorder(cfg.OUTPUT_DIR, False, topology.rank()))
    run.model.eval()  # batch norms would see half the batch each
    rank, world, losses = topology.rank(), topology.world_size(), []
    for count in counts:
        for seed in range(run.step, run.step + count):
            generator = torch.Generator().manual_seed(seed)
            clips = torch.randn(8, 3, 4, 32, 32, generator=generator)
            labels = torch.randint(8, (8,), generator=generator)
            step = training_step(run, clips[rank::world], labels[rank::world])
            losses.append(collectives.all_reduce_mean(step.loss).item())
        run.save()
        run.saver.finish(raise_on_failure=True)
        collectives.barrier()
        if topology.is_main():
            shutil.copytree(cfg.OUTPUT_DIR, f"{cfg.OUTPUT_DIR}_after_{run.step}")
        collectives.barrier()
    state = {name: parallel.full_tensor(value).detach().clone() for name, value in run.net.state_dict().items()}
    return {"losses": losses, "state": state}


def read_in_steps(options: list) -> dict:
    """Two steps, then one that is not finite because of rank 1 alone.

    Returns:
        `found`: what was read from the device; `updated`: by step; `changed`: whether the last one changed a thing.
    """
    cfg = load_config(None, options)
    run = start_run(cfg, None)
    run.model.train()
    batches = [(torch.randn(4, 3, 4, 32, 32), torch.arange(4)) for _ in range(3)]
    if topology.rank() == 1:
        batches[2][0][0] = torch.inf

    def state() -> list[torch.Tensor]:
        modules = [run.net, run.ema.module] if run.ema else [run.net]
        values = [value for module in modules for value in module.state_dict().values()]
        return [parallel.local_shard(v).clone() for v in [*values, *tree_leaves(run.optimizer.state_dict()["state"])]]

    with DeviceReads() as reads:
        steps = [training_step(run, *batch) for batch in batches[:2]]
    before = state()
    with DeviceReads() as reads_of_bad:
        steps.append(training_step(run, *batches[2]))
    same = all(map(torch.equal, before, state()))
    return {"found": reads.found + reads_of_bad.found, "updated": [bool(s.updated) for s in steps], "changed": not same}


def train_and_test(options: list) -> dict:
    """A run; returns the metrics of its test."""
    cfg = load_config(None, options)
    train(cfg)
    return test(cfg)


def stale_listing(options: list) -> dict:
    """Test and resume a run whose checkpoints rank 1 does not see, as on a file system that caches listings."""
    cfg = load_config(None, options)
    hidden = mock.patch.multiple(checkpoints, find_best=lambda _: None, latest=lambda _: None)
    with hidden if topology.rank() == 1 else mock.MagicMock():
        return {"figures": test(cfg), "step": start_run(cfg, None).step}


def tensors_read(folder: str) -> dict:
    """Top-level keys of the tensors that are read to test a sharded checkpoint."""
    import torch.distributed.checkpoint as dcp

    from slowfast_uniformer.weights.load import read_weights

    keys: set[str] = set()
    load = dcp.load

    def spy(tensors, **options):
        keys.update(key.split("/")[0] for key in tensors)
        return load(tensors, **options)

    with mock.patch.object(dcp, "load", spy):
        weights = read_weights(folder)
    return {"keys": keys, "tensors": {name: value.clone() for name, value in weights.tensors.items()}}
