"""The state of a run: what it carries from step to step and, in checkpoints, from process to process."""

import copy
import logging
import math
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from slowfast_uniformer import seeding
from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.config.load import to_dict
from slowfast_uniformer.data.classes import check_same_classes
from slowfast_uniformer.distributed import collectives, parallel, topology
from slowfast_uniformer.engine.ema import MovingAverage
from slowfast_uniformer.engine.meter import Meter, reshard
from slowfast_uniformer.engine.optim import build_optimizer
from slowfast_uniformer.engine.scores import best_column
from slowfast_uniformer.engine.step import StepResult
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.layers import repeated_blocks
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.log import Phase
from slowfast_uniformer.weights.load import ClassesDiffer, load_weights, read_weights
from slowfast_uniformer.weights.resolve import find_weights
from slowfast_uniformer.wording import counted

logger = logging.getLogger(__name__)
# Counters of `RunState` and their keys in checkpoints, which keep the names of the first ones written
COUNTERS = {name: name for name in ("epoch", "iter", "step", "best_top1", "skipped_steps")}
COUNTERS |= {"stale_validations": "stale_validations"}
COUNTERS |= {"samples_seen": "seen", "epochs_finished": "closed", "consecutive_skipped": "bad_in_a_row"}
NO_BEST = -math.inf  # `best_top1` before the first validation


class UnreadStep(NamedTuple):
    """A step of which the program does not know yet whether it has updated the weights.

    Attributes:
        number: `RunState.step` after it.
        result: its metrics, on the device.
        videos: the index of each clip's video in the train list, on the CPU.
    """

    number: int
    result: StepResult
    videos: Tensor


class RunState:
    """A training run: the model and all that a step or the next epoch depends on.

    Args:
        cfg: the config; it says whether the model is compiled and sharded here.
        net: the bare model, on its device.
        class_names: in label order, or None.

    Attributes:
        model: `net`, wrapped for several ranks.
        eval_model: of a sharded model, an unsharded one on the meta device; else None.
        epoch: epochs done.
        iter: optimizer steps done in the current epoch.
        samples_seen: videos of the current epoch that all ranks have used.
        epochs_finished: epochs done with their validation and checkpoint, where these were due.
        step: optimizer steps done.
        best_top1: the best TRAIN.BEST_METRIC of validations; of the loss, its negative.
        stale_validations: validations since the best one.
        temperature: fitted in the last validation (engine/calibration.py); None once a step was taken after it.
        meter: of the current epoch; None between epochs.
        meter_state: from which the meter of a resumed epoch goes on.
        unread: steps since results were last read; they count as neither skipped nor not. None left in a checkpoint.
        class_weights: (K,) on the device, what classes weigh in the loss; None: all the same.
        last_save: time of the last checkpoint, by time.monotonic().
        inputs: see `changes.inputs`; None where nobody has set it.
        former: `cfg` and `inputs` of the checkpoint that the run continues from.
    """

    def __init__(self, cfg: CfgNode, net: nn.Module, class_names: list[str] | None):
        self.cfg, self.net, self.model, self.class_names = cfg, net, net, class_names
        self.device = topology.device(cfg)
        self.epoch = self.iter = self.samples_seen = self.epochs_finished = self.step = 0
        self.skipped_steps = self.consecutive_skipped = 0
        self.best_top1 = NO_BEST
        self.stale_validations = 0
        self.temperature: float | None = None
        self.meter: Meter | None = None
        self.meter_state: Any = None
        self.unread: list[UnreadStep] = []
        self.class_weights: Tensor | None = None
        self.last_save = time.monotonic()
        self.inputs: dict[str, Any] | None = None
        self.former: dict[str, Any] = {}
        self.all_reduce_flags = collectives.AllReducedFlags()
        sharded = cfg.MODEL.PARALLEL == "fsdp" and topology.world_size() > 1
        self.ema = MovingAverage(net, cfg.MODEL.EMA_DECAY) if cfg.MODEL.EMA_EPOCH >= 0 else None
        self.eval_model = copy.deepcopy(net).to("meta") if sharded else None
        if cfg.MODEL.COMPILE:
            parallel.compile_blocks(repeated_blocks(net))
        if sharded:
            for model in [net, self.ema.module] if self.ema else [net]:
                parallel.shard_fsdp(model, repeated_blocks(model), self.device)
        self.optimizer = build_optimizer(net, cfg)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=cfg.TRAIN.MIXED_PRECISION == "fp16")
        group = collectives.new_gloo_group() if sharded else None
        self.saver = checkpoints.CheckpointSaver(cfg.OUTPUT_DIR, cfg.TRAIN.KEEP_CHECKPOINTS, group)

    @property
    def best_column(self) -> str:
        """The column of metrics.jsonl by which the best checkpoint is chosen."""
        return best_column(self.cfg.TRAIN.BEST_METRIC, self.cfg.DATA.MULTI_LABEL)

    @property
    def out_of_patience(self) -> bool:
        """Whether TRAIN.PATIENCE ends the run."""
        return 0 < self.cfg.TRAIN.PATIENCE <= self.stale_validations

    @property
    def complete(self) -> bool:
        """Whether training is complete."""
        return self.epochs_finished >= self.cfg.SOLVER.MAX_EPOCH or self.out_of_patience

    @property
    def ema_begun(self) -> bool:
        """Whether there is a moving average that has been updated."""
        return self.ema is not None and bool(self.ema.begun)

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where names are not known."""
        return self.class_names[label] if self.class_names else str(label)

    def unsharded_eval_model(self) -> nn.Module:
        """The model to evaluate, with the same weights on all ranks: the moving average once it has begun."""
        net = self.ema.module if self.ema_begun else self.net
        collectives.broadcast_tensors(net.buffers())
        if self.eval_model is None:
            return net
        weights = {name: parallel.full_tensor(value) for name, value in net.state_dict().items()}
        self.eval_model.load_state_dict(weights, assign=True)
        return self.eval_model

    def state(self) -> dict[str, Any]:
        """The contents of a checkpoint. Buffers are copies, for the next forward pass changes them; other tensors are
        the run's own."""
        buffers = {name: value.clone() for name, value in self.net.named_buffers()}
        return {
            "model_state": {name: buffers.get(name, value) for name, value in self.net.state_dict().items()},
            "ema_state": self.ema.module.state_dict() if self.ema_begun else None,
            "optimizer_state": optimizer_state(self.optimizer, self.cfg.SOLVER.OPTIMIZING_METHOD),
            "scaler_state": self.scaler.state_dict(),
            **{key: getattr(self, name) for name, key in COUNTERS.items()},
            "sums": self.meter_state,
            "class_names": self.class_names,
            "temperature": self.temperature,
            "arithmetic": getattr(self.net, "vit_variant", None),
            "inputs": self.inputs,
            "cfg": to_dict(self.cfg),
        }

    def save(self, best: str | None = None, resumable: bool = True) -> None:
        """Begin to write a checkpoint in the background. Called by all ranks.

        Args:
            best: also (or only) write it to this path.
            resumable: write it to the path from which a run resumes.
        """
        sharded = self.eval_model is not None
        within_epoch = self.step if self.meter else None
        self.meter_state = collectives.all_gather_objects(self.meter.state()) if self.meter else None
        latest = checkpoints.checkpoint_path(self.cfg.OUTPUT_DIR, self.epoch, within_epoch, sharded)
        paths = [latest] * resumable + ([best] if best else [])
        if sharded:
            collectives.broadcast_tensors(self.net.buffers())
        if sharded or topology.is_main():
            self.saver.save(paths, self.state())
        self.last_save = time.monotonic()

    def restore(self, state: dict[str, Any], source: str, own: bool = True) -> None:
        """Continue from the contents of a checkpoint.

        Args:
            state: of `load_checkpoint`.
            source: the checkpoint's path.
            own: whether it is this run's, or else that of TRAIN.CHECKPOINT_FILE_PATH.

        Raises:
            UserError: it does not match the config.
        """
        anew = 'set TRAIN.CHECKPOINT_FILE_PATH ""'
        if own:
            anew = "begin a new run: set another OUTPUT_DIR, or TRAIN.AUTO_RESUME False, which sets this one aside"
        weights = f"MODEL.INIT_FROM {source} then takes its weights"
        classes = f"To train with these classes, {anew}; {weights}, with MODEL.INIT_HEAD new"
        needed = {"model_state", "optimizer_state", "scaler_state", "sums", "step", "epoch"}
        if not needed <= state.keys() or "method" not in state["optimizer_state"]:
            other = f"{source} holds no state of a training of this program, only weights or another program's state"
            raise UserError(f"{other}. To start from its weights, {anew}; {weights}")
        try:
            check_same_classes(state.get("class_names"), self.class_names, source)
        except UserError as error:
            raise UserError(f"{error}. {classes}") from None
        try:
            _load_state(self.net, state["model_state"], source, classes)
            if self.ema is not None and state.get("ema_state"):
                _load_state(self.ema.module, state["ema_state"], source, classes)
                self.ema.begun.fill_(True)
        except ClassesDiffer:
            raise
        except UserError as error:
            raise UserError(f"{error}. To train this model, {anew}") from None
        remedy = f"Continue with the config that it was written with, or {anew}; {weights}"
        load_optimizer(self.optimizer, state["optimizer_state"], self.cfg.SOLVER.OPTIMIZING_METHOD, source, remedy)
        self.former = {key: state[key] for key in ("cfg", "inputs") if state.get(key)}
        if self.scaler.is_enabled() and state["scaler_state"]:  # it is empty where the run was not in fp16 so far
            self.scaler.load_state_dict(state["scaler_state"])
        for name, key in COUNTERS.items():
            setattr(self, name, state.get(key, 0))  # a checkpoint of an earlier version lacks stale_validations
        self.temperature = state.get("temperature")
        self._check_best_metric(dict(flatten(state.get("cfg") or {})), source)
        if meter_states := state["sums"]:
            world = topology.world_size()
            self.meter_state = reshard(meter_states, world, topology.rank())
            if len(meter_states) != world:
                logger.warning(
                    f"{source} was written by {counted(len(meter_states), 'rank')} and is continued by {world}: "
                    "videos come in the same order, but batch norm sees them in other groups, so metrics will differ "
                    "from now on"
                )

    def _check_best_metric(self, former: dict[str, Any], source: str) -> None:
        """Forget the best validation where another TRAIN.BEST_METRIC chose it."""
        then = best_column(former.get("TRAIN.BEST_METRIC", "auto"), former.get("DATA.MULTI_LABEL", False))
        if then != self.best_column:
            self.best_top1, self.stale_validations = NO_BEST, 0
            logger.warning(
                f"TRAIN.BEST_METRIC: {source} has the best {then} so far, and not the best {self.best_column}: "
                "the next validation is the best one, whatever it gives, and replaces best.pyth"
            )


def _load_state(net: nn.Module, weights: dict[str, Tensor], source: str, head_remedy: str) -> None:
    own = net.state_dict()
    shards = {name: parallel.shard_like(own.get(name, value), value) for name, value in weights.items()}
    load_weights(net, shards, init_head="keep", source=source, head_remedy=head_remedy)


def _named_parameters(optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    groups = optimizer.param_groups
    return {name: p for group in groups for name, p in zip(group["names"], group["params"], strict=True)}


def optimizer_state(optimizer: torch.optim.Optimizer, method: str) -> dict[str, Any]:
    """The optimizer's tensors by parameter name, and the method they belong to."""
    parameters = _named_parameters(optimizer).items()
    state = {name: dict(optimizer.state[p]) for name, p in parameters if p in optimizer.state}
    return {"method": method, "state": state}


def load_optimizer(
    optimizer: torch.optim.Optimizer, saved: dict[str, Any], method: str, source: str, remedy: str
) -> None:
    """Load an `optimizer_state` into an optimizer of the same method and parameters; UserError for another."""
    parameters = _named_parameters(optimizer)
    differing = saved["state"].keys() ^ parameters.keys() if saved["state"] else set()
    if differing or saved["method"] != method:
        cause = f"other parameters: {', '.join(sorted(differing)[:3])}" if differing else f"it is {saved['method']}"
        raise UserError(f"{source}: its optimizer does not match this config ({cause}). {remedy}")
    for name, values in saved["state"].items():
        p = parameters[name]
        optimizer.state[p] = dict(values)
        for key, value in values.items():
            if isinstance(value, Tensor):  # fused optimizers want their step counts on the device, too
                optimizer.state[p][key] = (parallel.shard_like(p, value) if value.ndim else value).to(p.device)


def _checkpoint_of_run(source: str) -> str:
    """The checkpoint that MODEL.INIT_FROM means where it is a run's folder; anything else as it is."""
    return find_weights(source) if os.path.isdir(source) else source


def start_run(
    cfg: CfgNode, class_names: list[str] | None, fit: Callable[[nn.Module], None] | None = None, own: str | None = None
) -> RunState:
    """Build model and optimizer, and load what they start from (runs/checkpoints.py has the order).

    Args:
        class_names: of the data, in label order.
        fit: fits the classifiers of a model to the data, where MODEL.INIT_HEAD is probe and no checkpoint is resumed.
        own: the run's own checkpoint, where it is known already; else TRAIN.AUTO_RESUME finds it.
    """
    if topology.is_main():
        checkpoints.remove_temporary(cfg.OUTPUT_DIR)
    if own is None and cfg.TRAIN.AUTO_RESUME:
        own = collectives.call_on_main(checkpoints.latest, cfg.OUTPUT_DIR)
    given, source = cfg.TRAIN.CHECKPOINT_FILE_PATH, cfg.MODEL.INIT_FROM
    path = own or (collectives.call_on_main(checkpoints.find_checkpoint, given, True) if given else None)
    if source and not path:
        source = collectives.call_on_main(_checkpoint_of_run, source)
    initial = read_weights(source) if source and not path else None
    vit_variant = initial.vit_variant if initial else None
    if path:
        vit_variant = checkpoints.load_checkpoint(path, only=()).get("arithmetic")
    logger.info("building the model and the optimizer")  # seconds, on a busy machine many: the first imports more
    seeding.seed_all(cfg.RNG_SEED)
    net = build_model(cfg, vit_variant).to(topology.device(cfg))
    if initial:
        allow, probe = cfg.MODEL.INIT_ALLOW, cfg.MODEL.INIT_HEAD == "probe"
        head = "new" if probe else cfg.MODEL.INIT_HEAD
        summary = load_weights(net, initial, init_head=head, class_names=class_names, allow=allow, source=source)
        logger.info("starting from MODEL.INIT_FROM %s: %s", source, summary)
        if probe and fit:
            fit(net)
    run = RunState(cfg, net, class_names)
    if path:
        with Phase(f"read {path}"):
            run.restore(checkpoints.load_checkpoint(path, dict(net.named_parameters())), path, path == own)
        why = "TRAIN.AUTO_RESUME: the latest in OUTPUT_DIR" if own else "TRAIN.CHECKPOINT_FILE_PATH"
        where = f"epoch {run.epoch}" + (f" and {counted(run.iter, 'step')}" if run.iter else "")
        logger.info("continuing %s after %s (%s)", path, where, why)
        unused = {"TRAIN.CHECKPOINT_FILE_PATH": given if own else "", "MODEL.INIT_FROM": source}
        for key, value in unused.items():
            if value:
                logger.info("%s %s is not used: the run continues from a checkpoint", key, value)
    elif not initial:
        logger.info("starting from random weights (no checkpoint in OUTPUT_DIR, MODEL.INIT_FROM not set)")
    run.model = parallel.wrap_ddp(net, run.device, static_graph=cfg.TRAIN.ACCUM_STEPS == 1)
    return run
