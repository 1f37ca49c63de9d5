"""Frozen features first: heads fitted to the stored features of a model, and how well they do on other videos.

Features and tokens of all test views are computed once for the train list and once for the list to test on. Whatever a
head can be given to choose from (neighbours, penalty, learning rate, weight decay) is chosen by cross-validation on the
train list; the other list is looked at once.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from slowfast_uniformer.config.load import to_dict, variant
from slowfast_uniformer.data import annotations
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine import attentive_heads, linear_heads
from slowfast_uniformer.engine.scores import Outcome, mean_average_precision
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.features import extract_tokens
from slowfast_uniformer.inference.predictor import Predictor, load_model
from slowfast_uniformer.models.registry import require
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.log import Phase
from slowfast_uniformer.wording import counted

logger = logging.getLogger(__name__)


class Split(NamedTuple):
    """The stored views of a list's videos.

    Attributes:
        stored: (V, N, T', 1 + M, C) of N views, see `Predictor.tokens`.
        targets: labels (V,), or multi-hot (V, K).
    """

    stored: Tensor
    targets: Tensor

    @property
    def features(self) -> Tensor:
        """What a linear classifier reads, (V, N, C)."""
        return self.stored[:, :, 0, 0].float()

    @property
    def readable(self) -> Tensor:
        """(V,) whether each video could be read."""
        return ~self.stored[:, 0, 0, 0, 0].isnan()

    def of(self, videos: Tensor) -> "Split":
        """The part of some videos, (V,) bool."""
        return Split(self.stored[videos], self.targets[videos])


@dataclass(eq=False)
class Task:
    """What heads are fitted to and tested on, and what several of them need.

    Attributes:
        model: that gave the features.
        train: the readable videos of the train list.
        test: all videos of the other list.
        folds: of the cross-validation.
    """

    model: Predictor
    train: Split
    test: Split
    folds: int

    @property
    def classes(self) -> int:
        return self.model.cfg.MODEL.NUM_CLASSES

    @cached_property
    def of_fold(self) -> Tensor:
        """The fold (V,) of each training video."""
        return linear_heads.folds_of(self.train.targets, self.folds, self.model.cfg.RNG_SEED)

    @cached_property
    def penalty(self) -> tuple[float, float]:
        """The best penalty of logistic regression, and its score in cross-validation."""
        features, targets = self.train.features, self.train.targets

        def fit(videos: Tensor, penalty: float) -> Callable[[Tensor], Tensor]:
            weight, bias = _regression(features[videos], targets[videos], self.classes, penalty)
            return lambda others: _of_videos(self.model, features[others] @ weight.T + bias)

        penalty, scores = linear_heads.cross_validate(fit, linear_heads.PENALTIES, self.of_fold, self.validated)
        for value, score in zip(linear_heads.PENALTIES, scores, strict=True):
            logger.info("linear, C=%g: %.1f %% in cross-validation", value, score)
        return penalty, max(scores)

    def validated(self, predictions: Tensor) -> float:
        """The score of held-out predictions (V, K) of the training videos."""
        return _score(predictions, self.train.targets)

    def result(self, method: str, setting: str, validated: float, predictions: Tensor) -> "Result":
        """The result of a head with these predictions (V, K) of the videos to test on."""
        score = _score(predictions, self.test.targets)
        return Result(method, setting, validated, score, _interval(predictions, self.test.targets))


@dataclass(eq=False)
class Result:
    """A fitted head and how well it does.

    Attributes:
        method: knn, linear or attentive.
        setting: what cross-validation chose.
        validated: its score in cross-validation, in per cent.
        score: accuracy (or mAP) on the videos to test on, in per cent.
        interval: 95 % interval of the accuracy; None for mAP.
        minutes: that fitting took, with cross-validation.
        shuffled: of an attentive head, the score with the frames of each view in random order; else None.
        head: puts it into a model; None where it has no weights.
    """

    method: str
    setting: str
    validated: float
    score: float
    interval: tuple[float, float] | None
    minutes: float = 0.0
    shuffled: float | None = None
    head: Callable[[Predictor], Predictor] | None = field(default=None, repr=False)


def probe(
    cfg: CfgNode,
    load: dict[str, Any],
    methods: Sequence[str],
    cache: str = "",
    split: str = "val",
    folds: int = 5,
    workers: int = 0,
    save: str = "",
) -> list[Result]:
    """Fit heads and print how well they do: what every process of the command runs.

    Args:
        cfg: the config, which `launch` passes; unused, since the model carries its own.
        load: keyword arguments of `load_model`.
        methods: of `METHODS`.
        cache: folder of the stored features; "" is OUTPUT_DIR/probe.
        split: the list to test on, val or test.
        folds: of the cross-validation.
        workers: DataLoader workers of each process.
        save: the checkpoint to write, of the only method.

    Returns:
        A result for each method; nothing on other ranks than the first.

    Raises:
        UserError: the lists, the model or the method cannot be used so.
        Interrupted: a signal requested a stop; the same call continues.
    """
    model = load_model(**load, new_head=True)
    check_methods(methods, model)
    samples = {name: list(annotations.load(model.cfg, name)) for name in ("train", split)}
    for name in samples:
        _check_labelled(model, name, samples[name])
    folder, begun = cache or os.path.join(model.cfg.OUTPUT_DIR, "probe"), time.monotonic()
    splits = []
    for name, videos in samples.items():
        path = os.path.join(folder, f"{name}.safetensors")
        stored, errors = extract_tokens(model, videos, path, model.cfg.MODEL.HEAD_GRID, workers)
        for cause in list(errors.values())[:10]:
            logger.warning("%s list: no features: %s", name, cause)
        splits.append(Split(stored, _targets(model.cfg, videos)))
    minutes = (time.monotonic() - begun) / 60
    if not topology.is_main():
        return []
    train, test = splits
    print(description(model, folder, minutes, train, test))
    task = Task(model, train.of(train.readable), test, folds)
    results = []
    for method in methods:
        begun = time.monotonic()
        with Phase(f"fit {method}"):
            result = METHODS[method](task)
        result.minutes = (time.monotonic() - begun) / 60
        results.append(result)
    if save:
        write(results[-1], model, save)
    return results


def check_methods(methods: Sequence[str], model: Predictor) -> None:
    """Raise UserError if a model or its config does not go with a method."""
    if "knn" in methods and model.cfg.DATA.MULTI_LABEL:
        raise UserError("knn is for videos of one label (DATA.MULTI_LABEL False); use --method linear or attentive")
    if "attentive" in methods:
        require(model.model, "forward_tokens", "--method attentive")
    name = model.model.classifier[0]
    if not linear_heads.is_linear(model.model.get_submodule(name)):
        raise UserError(f"{type(model.model).__name__}.classifier names {name}, which must be an nn.Linear with a bias")


def _check_labelled(model: Predictor, split: str, samples: Sequence[annotations.Sample]) -> None:
    path = annotations.list_path(model.cfg, split)
    if not samples:
        raise UserError(f"{path}: the {split} list is empty; name another one with --split")
    if unlabelled := sum(not sample.labels for sample in samples):
        raise UserError(
            f"{path}: {counted(unlabelled, 'video')} without a label, which a probe needs; take them out, or name "
            "another list with --split"
        )


def _targets(cfg: CfgNode, samples: Sequence[annotations.Sample]) -> Tensor:
    if not cfg.DATA.MULTI_LABEL:
        return torch.tensor([sample.label for sample in samples])
    targets = torch.zeros(len(samples), cfg.MODEL.NUM_CLASSES)
    for row, sample in zip(targets, samples, strict=True):
        row[list(sample.label)] = 1.0
    return targets


def description(model: Predictor, folder: str, minutes: float, train: Split, test: Split) -> str:
    """What the heads are fitted to, in two lines."""
    videos, views = len(train.targets), train.stored.shape[1]
    lines = f"{model.path}: features of {counted(videos, 'training video')} and {len(test.targets):,} to test on, "
    lines += f"{counted(views, 'view')} each, in {folder} ({minutes:.1f} minutes)"
    if unread := int((~train.readable).sum()):
        lines += f"\n{counted(unread, 'training video')} could not be read and had to be left out"
    if unread := int((~test.readable).sum()):
        lines += f"\n{counted(unread, 'video')} to test on could not be read and counts as wrong"
    return lines


# --------------------------------------------------------------------------------------------------- scores
def _score(predictions: Tensor, targets: Tensor) -> float:
    """Accuracy of predictions (V, K), or with several labels a video mAP, in per cent."""
    if targets.ndim > 1:
        truth, probabilities = targets.numpy() > 0, predictions.numpy()
        return mean_average_precision(Outcome(truth, probabilities >= 0.5, truth.shape[1], probabilities=probabilities))
    return 100 * float(_correct(predictions, targets).float().mean())


def _correct(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions.argmax(1) == targets) & (predictions.sum(1) > 0)


def _interval(predictions: Tensor, targets: Tensor) -> tuple[float, float] | None:
    """95 % interval of the accuracy (Wilson, JASA 22, 1927)."""
    if targets.ndim > 1:
        return None
    from scipy.stats import binomtest

    found = binomtest(int(_correct(predictions, targets).sum()), len(targets)).proportion_ci(method="wilson")
    return 100 * found.low, 100 * found.high


def _of_videos(model: Predictor, logits: Tensor) -> Tensor:
    """Probabilities (V, K) from logits (V, N, K) of views, combined as in testing; zeros where they are nan."""
    return torch.stack([torch.zeros(len(v[0])) if v.isnan().any() else model.probabilities(v).float() for v in logits])


# -------------------------------------------------------------------------------------------------- methods
def _knn(task: Task) -> Result:
    features, targets = task.train.features.mean(1), task.train.targets

    def fit(videos: Tensor, count: float) -> Callable[[Tensor], Tensor]:
        voting = linear_heads.nearest_neighbours(features[videos], targets[videos], task.classes, int(count))
        return lambda others: voting(features[others])

    count, scores = linear_heads.cross_validate(fit, linear_heads.NEIGHBOURS, task.of_fold, task.validated)
    voting = linear_heads.nearest_neighbours(features, targets, task.classes, int(count))
    readable = task.test.readable
    predictions = torch.zeros(len(readable), task.classes)
    predictions[readable] = voting(task.test.of(readable).features.mean(1)).float()
    return task.result("knn", f"k={count}", max(scores), predictions)


def _regression(features: Tensor, targets: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Weight and bias from features (V, N, C): the penalty is of videos, whatever the number of their views."""
    views = features.shape[1]
    targets = targets.repeat_interleave(views, dim=0)
    return linear_heads.logistic_regression(features.flatten(0, 1), targets, classes, penalty / views)


def _linear(task: Task) -> Result:
    penalty, validated = task.penalty
    weight, bias = _regression(task.train.features, task.train.targets, task.classes, penalty)
    predictions = _of_videos(task.model, task.test.features @ weight.T + bias)
    result = task.result("linear", f"C={penalty:g}", validated, predictions)

    def head(into: Predictor) -> Predictor:
        linear_heads.set_linear(into.model.get_submodule(into.model.classifier[0]), weight, bias)
        return into

    result.head = head
    return result


def _attentive(task: Task) -> Result:
    train, seed, grid = task.train, task.model.cfg.RNG_SEED, attentive_heads.GRID
    views = attentive_heads.views_of(train.stored.flatten(0, 1), _numbers(train))
    fitted_to = torch.stack([task.of_fold != fold for fold in task.of_fold.unique()])
    heads = _begin(task, views, fitted_to, len(grid))
    settings = [setting for setting in grid for _ in fitted_to]
    attentive_heads.fit_heads(heads, views, train.targets, settings, fitted_to.repeat(len(grid), 1), seed)
    scores = []
    for setting, of_folds in zip(grid, attentive_heads.logits_of(heads, views).split(len(fitted_to)), strict=True):
        held_out = (of_folds.unflatten(1, (len(train.targets), -1)) * ~fitted_to[:, :, None, None]).sum(0)
        scores.append(task.validated(_of_videos(task.model, held_out)))
        logger.info("attentive, %s: %.1f %% in cross-validation", setting, scores[-1])
    best = max(range(len(grid)), key=scores.__getitem__)
    every = torch.ones(1, len(train.targets), dtype=torch.bool)
    heads = _begin(task, views, every, 1)
    attentive_heads.fit_heads(heads, views, train.targets, [grid[best]], every, seed)
    return _attentive_result(task, heads, views, str(grid[best]), scores[best])


def _numbers(split: Split) -> Tensor:
    """The number of each view's video."""
    return torch.arange(len(split.targets)).repeat_interleave(split.stored.shape[1])


def _begin(task: Task, views: attentive_heads.Views, fitted_to: Tensor, settings: int) -> attentive_heads.Heads:
    """Heads that begin as linear probes of each part of the training videos, (F, V) bool, for each setting."""
    cfg, targets = task.model.cfg, task.train.targets
    features = (task.train.features - views.mean[0]) / views.deviation[0]
    found = [_regression(features[part], targets[part], task.classes, task.penalty[0]) for part in fitted_to]
    weight, bias = (torch.stack(values) for values in zip(*found, strict=True))
    weight, bias = weight.repeat(settings, 1, 1), bias.repeat(settings, 1)
    return attentive_heads.Heads(weight, bias, cfg.MODEL.HEAD_QUERIES, cfg.DATA.NUM_FRAMES, cfg.RNG_SEED)


def _attentive_result(
    task: Task, heads: attentive_heads.Heads, views: attentive_heads.Views, setting: str, validated: float
) -> Result:
    test = task.test
    others = replace(views, stored=test.stored.flatten(0, 1), videos=_numbers(test))
    predictions, shuffled = (
        _of_videos(task.model, attentive_heads.logits_of(heads, others, seed)[0].unflatten(0, (len(test.targets), -1)))
        for seed in (None, task.model.cfg.RNG_SEED)
    )
    result = task.result("attentive", setting, validated, predictions)
    result.shuffled = _score(shuffled, test.targets)
    pool, weight, bias = attentive_heads.into_model(heads, 0, views)

    def head(into: Predictor) -> Predictor:
        cfg = variant(into.cfg, ["MODEL.HEAD", "attentive"])
        into.model.add_attentive_head(cfg.MODEL.HEAD_QUERIES, cfg.DATA.NUM_FRAMES, cfg.MODEL.HEAD_GRID)
        into.model.attentive.load_state_dict(pool.state_dict())
        linear_heads.set_linear(into.model.get_submodule(into.model.classifier[0]), weight, bias)
        into.model.eval().requires_grad_(False).to(into.device)
        return Predictor(cfg, into.model, into.names, into.path)

    result.head = head
    return result


METHODS = {"knn": _knn, "linear": _linear, "attentive": _attentive}


# ------------------------------------------------------------------------------------------------- the outcome
def rows(results: Sequence[Result], split: str, multi_label: bool) -> Iterator[Sequence[str]]:
    """The table of the results, the header first."""
    score = "mAP" if multi_label else "top-1"
    yield "method", "chosen", "cross-validation", f"{split} {score}", "95 % interval", "minutes"
    for result in results:
        interval = f"{result.interval[0]:.1f} to {result.interval[1]:.1f}" if result.interval else ""
        figures = f"{result.validated:.1f}", f"{result.score:.1f}", interval, f"{result.minutes:.1f}"
        yield result.method, result.setting, *figures
        if result.shuffled is not None:
            yield f"{result.method}, frames shuffled", "", "", f"{result.shuffled:.1f}", "", ""


def write(result: Result, model: Predictor, path: str) -> None:
    """Write the model with the head of a result, as a checkpoint of a run without training.

    Raises:
        UserError: it cannot be written.
    """
    saved = result.head(model)
    state = {
        "model_state": {name: value.cpu() for name, value in saved.model.state_dict().items()},
        "optimizer_state": {},
        "epoch": 0,
        "step": 0,
        "class_names": saved.names,
        "arithmetic": getattr(saved.model, "vit_variant", None),
        "cfg": to_dict(saved.cfg),
    }
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    checkpoints.write_checkpoint(path, state)
    print(f"{path}: the model with the {result.method} head")
