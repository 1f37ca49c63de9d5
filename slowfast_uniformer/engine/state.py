"""What a run carries from step to step and, in checkpoints, from process to process."""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slowfast_uniformer import seeding
from slowfast_uniformer.config.load import to_dict
from slowfast_uniformer.data.annotations import check_same_classes
from slowfast_uniformer.distributed import collectives, parallel, topology
from slowfast_uniformer.engine.meter import Meter, reshard
from slowfast_uniformer.engine.optim import build_optimizer
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models import layers
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.weights.load import load_weights, read_weights

logger = logging.getLogger(__name__)
COUNTERS = ("epoch", "iter", "seen", "closed", "step", "best_top1", "skipped_steps", "bad_in_a_row")


@dataclass
class RunState:
    """A training: the model and all that a step or the next epoch depends on."""

    cfg: CfgNode
    net: nn.Module  # the bare model
    model: nn.Module  # the same, wrapped for several processes
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: AveragedModel | None
    device: torch.device
    class_names: list[str] | None
    saver: checkpoints.CheckpointSaver
    shell: nn.Module | None = None  # of a sharded model, what holds all of its weights in evaluation
    vote: collectives.AllReducedFlags = field(default_factory=collectives.AllReducedFlags)
    epoch: int = 0  # epochs done
    iter: int = 0  # optimizer steps done in the epoch that has begun
    seen: int = 0  # videos that all ranks have taken in it
    closed: int = 0  # epochs done, validated and written, where these were due
    step: int = 0  # optimizer steps done
    best_top1: float = -1.0  # of validations; with DATA.MULTI_LABEL best mAP
    skipped_steps: int = 0
    bad_in_a_row: int = 0
    meter: Meter | None = None  # of the epoch that has begun
    sums: Any = None  # what the meter goes on from
    saved: float = field(default_factory=time.monotonic)  # when the last checkpoint was begun

    def best_net(self) -> nn.Module:
        """The weights that are evaluated, alike on all ranks: the moving average once it has begun."""
        averaged = self.ema is not None and self.ema.n_averaged > 0
        net = self.ema.module if averaged else self.net
        collectives.broadcast_tensors(net.buffers())
        if self.shell is None:
            return net
        everything = {name: parallel.full_tensor(value) for name, value in net.state_dict().items()}
        self.shell.load_state_dict(everything, assign=True)
        return self.shell

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds. Tensors are the run's own but for buffers, which the next forward pass
        changes."""
        averaged = self.ema is not None and self.ema.n_averaged > 0
        buffers = {name: value.clone() for name, value in self.net.named_buffers()}
        return {
            "model_state": {name: buffers.get(name, value) for name, value in self.net.state_dict().items()},
            "ema_state": self.ema.module.state_dict() if averaged else None,
            "optimizer_state": optimizer_state(self.optimizer, self.cfg.SOLVER.OPTIMIZING_METHOD),
            "scaler_state": self.scaler.state_dict(),
            **{name: getattr(self, name) for name in COUNTERS},
            "sums": self.sums,
            "class_names": self.class_names,
            "arithmetic": getattr(self.net, "arithmetic", None),
            "cfg": to_dict(self.cfg),
        }

    def save(self, also: str | None = None, closing: bool = True) -> None:
        """Write a checkpoint of where the run is (with `closing` False none), and `also` one of that path.
        For all ranks at once; returns before it is written."""
        out, sharded = self.cfg.OUTPUT_DIR, self.shell is not None
        within = self.step if self.meter else None
        self.sums = collectives.all_gather_objects(self.meter.state()) if self.meter else None
        paths = [checkpoints.checkpoint_path(out, self.epoch, within, sharded)] if closing else []
        paths += [also] if also else []
        if sharded:
            collectives.broadcast_tensors(self.net.buffers())
        if sharded or topology.is_main():
            self.saver.save(paths, self.state())
        self.saved = time.monotonic()

    def restore(self, state: dict[str, Any], source: str) -> None:
        check_same_classes(state.get("class_names"), self.class_names, source)
        _load_state(self.net, state["model_state"], source)
        if self.ema is not None and state.get("ema_state"):
            _load_state(self.ema.module, state["ema_state"], source)
            self.ema.n_averaged.fill_(1)
        load_optimizer(self.optimizer, state["optimizer_state"], self.cfg.SOLVER.OPTIMIZING_METHOD, source)
        if self.scaler.is_enabled() and state["scaler_state"]:  # the run may not have been in fp16 so far
            self.scaler.load_state_dict(state["scaler_state"])
        for name in COUNTERS:
            setattr(self, name, state[name])
        if state["sums"]:
            self.sums = reshard(state["sums"], topology.world_size(), topology.rank())
            if len(state["sums"]) != topology.world_size():
                logger.warning(
                    "%s was written by %d processes and is continued by %d: videos come in the same order, "
                    "but batch norms see them in other groups, so figures will differ from now on",
                    source,
                    len(state["sums"]),
                    topology.world_size(),
                )


def _load_state(net: nn.Module, given: dict[str, Tensor], source: str) -> None:
    own = net.state_dict()
    parts = {name: parallel.shard_like(own.get(name, value), value) for name, value in given.items()}
    load_weights(net, parts, init_head="keep", source=source)


def optimizer_state(optimizer: torch.optim.Optimizer, method: str) -> dict[str, Any]:
    """The optimizer's tensors by the names of parameters, and which method's they are."""
    named = {
        name: optimizer.state[p]
        for group in optimizer.param_groups
        for name, p in zip(group["names"], group["params"], strict=True)
        if p in optimizer.state
    }
    return {"method": method, "state": {name: dict(values) for name, values in named.items()}}


def load_optimizer(optimizer: torch.optim.Optimizer, given: dict[str, Any], method: str, source: str) -> None:
    """Put `optimizer_state` into an optimizer of the same method and parameters; UserError for another."""
    pairs = [zip(group["names"], group["params"], strict=True) for group in optimizer.param_groups]
    own = {name: p for group in pairs for name, p in group}
    other = set(given["state"]) ^ set(own) if given["state"] else set()
    if other or given["method"] != method:
        what = f"other parameters: {', '.join(sorted(other)[:3])}" if other else f"it is {given['method']}"
        raise UserError(
            f"{source}: its optimizer does not fit this config ({what}). Continue with the run's own "
            "config, or start from its weights with MODEL.INIT_FROM and a new OUTPUT_DIR"
        )
    for name, values in given["state"].items():
        p = own[name]
        optimizer.state[p] = {
            key: (parallel.shard_like(p, value) if value.ndim else value).to(p.device)
            if isinstance(value, Tensor)  # fused optimizers want their count of steps there, too
            else value
            for key, value in values.items()
        }


def build_ema(net: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model that follows parameters and buffers; its first update copies them."""
    average = get_ema_multi_avg_fn(decay)

    def of_parts(averaged: list[Tensor], current: list[Tensor], count: Any) -> None:
        average(*(list(map(parallel.local_shard, values)) for values in (averaged, current)), count)

    return AveragedModel(net, multi_avg_fn=of_parts, use_buffers=True)


def start_run(cfg: CfgNode, class_names: list[str] | None, fit: Callable | None = None) -> RunState:
    """Model, optimizer and the state they start from (see checkpoint.py for the order). `fit(net)` fits
    the classifiers where MODEL.INIT_HEAD asks for a probe and the run does not continue another."""
    if topology.is_main():
        checkpoints.remove_temporary(cfg.OUTPUT_DIR)
    own = collectives.broadcast_object(
        checkpoints.latest(cfg.OUTPUT_DIR) if cfg.TRAIN.AUTO_RESUME and topology.is_main() else None
    )
    path = own or cfg.TRAIN.CHECKPOINT_FILE_PATH
    initial = read_weights(cfg.MODEL.INIT_FROM) if cfg.MODEL.INIT_FROM and not path else None
    arithmetic = checkpoints.load_checkpoint(path, tensors=False).get("arithmetic") if path else None
    seeding.seed_all(cfg.RNG_SEED)
    device = topology.device(cfg)
    net = build_model(cfg, initial.arithmetic if initial else arithmetic).to(device)
    if initial:
        probe = cfg.MODEL.INIT_HEAD == "probe"
        report = load_weights(
            net,
            initial,
            init_head="new" if probe else cfg.MODEL.INIT_HEAD,
            class_names=class_names,
            allow=cfg.MODEL.INIT_ALLOW,
            source=cfg.MODEL.INIT_FROM,
        )
        logger.info("starting from MODEL.INIT_FROM %s: %s", cfg.MODEL.INIT_FROM, report)
        if probe and fit:
            fit(net)
    run = _build_run(cfg, net, device, class_names)
    if path:
        run.restore(checkpoints.load_checkpoint(path, dict(run.net.named_parameters())), path)
        why = "TRAIN.AUTO_RESUME: the newest in OUTPUT_DIR" if own else "TRAIN.CHECKPOINT_FILE_PATH"
        where = f"epoch {run.epoch}" + (f" and {run.iter} steps" if run.iter else "")
        logger.info("continuing %s after %s (%s)", path, where, why)
    elif not initial:
        logger.info("starting from random weights (no checkpoint in OUTPUT_DIR, MODEL.INIT_FROM not set)")
    run.model = parallel.wrap_ddp(net, device, alike=cfg.TRAIN.ACCUM_STEPS == 1)
    return run


def _build_run(cfg: CfgNode, net: nn.Module, device: torch.device, class_names: list[str] | None) -> RunState:
    """The run of a model at its beginning: sharded and compiled as the config says."""
    sharded = cfg.MODEL.PARALLEL == "fsdp" and topology.world_size() > 1
    ema = build_ema(net, cfg.MODEL.EMA_DECAY) if cfg.MODEL.EMA_EPOCH >= 0 else None
    shell = copy.deepcopy(net).to("meta") if sharded else None
    if cfg.MODEL.COMPILE:
        layers.compile_blocks(net)
    for whole in [net, *([ema.module] if ema else [])] if sharded else ():
        parallel.shard_fsdp(whole, layers.repeated_blocks(whole), device)
    group = collectives.new_gloo_group() if sharded else None
    return RunState(
        cfg=cfg,
        net=net,
        model=net,
        optimizer=build_optimizer(net, cfg),
        scaler=torch.amp.GradScaler(device.type, enabled=cfg.TRAIN.MIXED_PRECISION == "fp16"),
        ema=ema,
        device=device,
        class_names=class_names,
        saver=checkpoints.CheckpointSaver(cfg.OUTPUT_DIR, cfg.TRAIN.KEEP_CHECKPOINTS, group),
        shell=shell,
    )
