"""One optimizer step: what it computes, in which precision, on which device, and what it leaves alone."""

import json
import math
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from device_reads import DeviceReads
from mixup_settings import mixup_of
from processes import pairs
from tiny_models import LIGHT, V2
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.meter import RunningSums
from slowfast_uniformer.engine.state import RunState, start_run
from slowfast_uniformer.engine.step import compute_loss, training_step
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.ops import depthwise


def batch(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 4, 32, 32, generator=generator), torch.randint(8, (count,), generator=generator)


def start(tiny, *overrides):
    run = start_run(load_config(None, [*tiny, "UNIFORMER.DROP_DEPTH_RATE", 0, *overrides]), None)
    run.model.train()
    return run


def state_of(run):
    return {name: value.clone() for name, value in run.net.state_dict().items()}


def test_the_loss_is_the_mean_over_heads_in_fp32():
    heads, labels = torch.randn(2, 4, 5), torch.tensor([0, 1, 2, 4])
    losses = [F.cross_entropy(head, labels) for head in heads]
    assert compute_loss(heads[0], labels, False) == losses[0]
    assert compute_loss(tuple(heads), labels, False) == torch.stack(losses).mean()
    half = compute_loss(heads[0].bfloat16(), labels, False)
    assert half.dtype == torch.float32 and half == F.cross_entropy(heads[0].bfloat16().float(), labels)
    soft = torch.rand(4, 5)
    assert compute_loss(heads[0], soft, False) == F.cross_entropy(heads[0], soft)
    assert compute_loss(heads[0], soft, True) == F.binary_cross_entropy_with_logits(heads[0], soft)


def by_hand(logits, targets, weights, gamma, multi_label):
    """The mean over clips of the loss, in loops; targets (N, K)."""
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        exp = [math.exp(value) for value in row]
        for value, t, w, e in zip(row, target, weights, exp, strict=True):
            if multi_label:
                p = 1 / (1 + math.exp(-value))
                wrong = p * (1 - t) + (1 - p) * t
                total -= (w * t * math.log(p) + (1 - t) * math.log(1 - p)) * wrong**gamma / len(row)
            else:
                p = e / sum(exp)
                total -= w * t * (1 - p) ** gamma * math.log(p)
    return total / len(logits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 0.0, 1.0, 4.0]])
def test_class_weights_and_focal_loss_by_hand(gamma, weights):
    """Of labels, of targets that mixup and label smoothing have made soft, and of several labels (pos_weight)."""
    generator = torch.Generator().manual_seed(2)
    heads, labels = torch.randn(2, 4, 5, generator=generator), torch.tensor([0, 1, 2, 4])
    soft, hot = torch.rand(4, 5, generator=generator).softmax(1), torch.tensor([[1.0, 0, 1, 0, 0]] * 4)
    tensor = None if weights is None else torch.tensor(weights)
    for targets, rows, multi_label in ((labels, F.one_hot(labels, 5), False), (soft, soft, False), (hot, hot, True)):
        found = compute_loss(tuple(heads), targets, multi_label, tensor, gamma)
        expected = sum(by_hand(head, rows, weights or [1.0] * 5, gamma, multi_label) for head in heads) / 2
        assert found.item() == pytest.approx(expected, rel=1e-5) and found.dtype == torch.float32


@pytest.mark.slow
def test_the_focal_loss_of_several_labels_is_that_of_torchvision():
    from torchvision.ops import sigmoid_focal_loss

    logits, targets = 3 * torch.randn(6, 5), torch.randint(2, (6, 5)).float()
    for gamma in (1.0, 2.0):
        expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma, reduction="mean")
        torch.testing.assert_close(compute_loss(logits, targets, True, None, gamma), expected)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_class_weights_and_focal_loss_read_nothing_from_the_device(gamma):
    logits, labels, weights = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 1, 2, 4]), torch.rand(5)
    with DeviceReads() as reads:
        for targets, multi_label in ((labels, False), (torch.rand(4, 5), False), (torch.ones(4, 5), True)):
            compute_loss(logits, targets, multi_label, weights, gamma).backward()
    assert reads.found == []


@pytest.mark.parametrize("multi_label", [False, True])
def test_gradients_of_the_focal_loss_are_finite_where_a_probability_is_1(multi_label):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = compute_loss(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), multi_label, None, 0.5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all() and gradient[1].abs().sum() > 0


@pytest.mark.parametrize("options", [[], ["MIXUP.ENABLE", True], ["SOLVER.FOCAL_GAMMA", 2.0]])
def test_weighted_gradients_do_not_depend_on_micro_batches(tiny, options):
    """The loss is divided by the clips, not by their weights, which differ between micro-batches."""
    losses = []
    for steps in (1, 4):
        run = start(tiny, "TRAIN.ACCUM_STEPS", steps, "SOLVER.OPTIMIZING_METHOD", "sgd", *options)
        run.model.eval()
        run.class_weights = torch.linspace(0, 2, 8)
        np.random.seed(3)
        step = training_step(run, *batch(), mixup_of(num_classes=8) if "MIXUP.ENABLE" in options else None)
        losses.append((step, state_of(run)))
    (whole, one), (parts, four) = losses
    torch.testing.assert_close(whole.loss, parts.loss)
    torch.testing.assert_close(whole.norm, parts.norm, rtol=1e-5, atol=0)
    for name in one:
        torch.testing.assert_close(one[name], four[name], rtol=1e-5, atol=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny):
    states = []
    for steps in (1, 4):
        run = start(tiny, "TRAIN.ACCUM_STEPS", steps, "SOLVER.OPTIMIZING_METHOD", "sgd")
        run.model.eval()
        step = training_step(run, *batch())
        states.append((state_of(run), step))
    (whole, one), (accumulated, four) = states
    torch.testing.assert_close(one.loss, four.loss)
    torch.testing.assert_close(one.norm, four.norm, rtol=1e-5, atol=0)
    for name in whole:
        torch.testing.assert_close(accumulated[name], whole[name], rtol=1e-5, atol=1e-6)


def test_mixup_is_applied_on_the_device_and_pinned_batches_are_transferred_as_they_are(tiny):
    """A mixed copy on the CPU would not be pinned, and its transfer would block."""
    run, clips, labels = start(tiny), *batch()
    loaded = SimpleNamespace(clips=Mock(ndim=5), labels=Mock(ndim=1))  # as the DataLoader hands them over, pinned
    loaded.clips.to.return_value, loaded.labels.to.return_value = clips, labels
    mixup = Mock(side_effect=mixup_of(num_classes=8))
    assert training_step(run, loaded.clips, loaded.labels, mixup).correct is None
    (mixed_clips, mixed_labels), _ = mixup.call_args
    assert mixed_clips is clips and mixed_labels is labels
    for tensor in (loaded.clips, loaded.labels):
        assert tensor.method_calls == [("to", (run.device,), {"non_blocking": True})]


def test_mixup_of_accumulated_batches_stays_on_the_cpu(tiny):
    """The device holds a micro-batch at a time."""
    run, (clips, labels) = start(tiny, "TRAIN.ACCUM_STEPS", 2), batch()
    loaded = SimpleNamespace(clips=Mock(ndim=5), labels=Mock(ndim=1))
    training_step(run, loaded.clips, loaded.labels, lambda *_: mixup_of(num_classes=8)(clips, labels))
    assert not loaded.clips.to.called and not loaded.labels.to.called


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0)])
def test_a_step_with_mixup_is_the_step_of_the_mixed_batch(tiny, alphas):
    losses = []
    for inside in (False, True):
        run, mixup = start(tiny), mixup_of(*alphas, num_classes=8)
        np.random.seed(3)
        step = training_step(run, *batch(), mixup) if inside else training_step(run, *mixup(*batch()))
        losses.append((step.loss.item(), step.norm.item()))
    assert losses[0] == losses[1]


def test_a_step_that_is_not_finite_changes_nothing(tiny):
    run = start(tiny, "MODEL.EMA_EPOCH", 0)
    training_step(run, *batch())
    before, moments = (state_of(run), json.dumps(run.optimizer.state_dict()["state"], default=lambda t: t.tolist()))
    average = {name: value.clone() for name, value in run.ema.module.state_dict().items()}
    clips, labels = batch(seed=1)
    clips[3] = math.inf
    step = training_step(run, clips, labels)
    assert not step.updated
    assert all(torch.equal(before[name], value) for name, value in run.net.state_dict().items())
    assert all(torch.equal(average[name], value) for name, value in run.ema.module.state_dict().items())
    assert moments == json.dumps(run.optimizer.state_dict()["state"], default=lambda t: t.tolist())
    assert training_step(run, *batch(seed=2)).updated


VARIANTS = {
    "fp32": [],
    "bf16": ["TRAIN.MIXED_PRECISION", "bf16"],
    "fp16": ["TRAIN.MIXED_PRECISION", "fp16"],
    "EMA": ["MODEL.EMA_EPOCH", 0],
    "SGD": ["SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.CLIP_GRADIENT", 0.0],
    "Adam, accumulated": ["SOLVER.OPTIMIZING_METHOD", "adam", "TRAIN.ACCUM_STEPS", 2],
    "light": pairs(LIGHT),
    "V2": pairs(V2),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_reads_nothing_from_the_device(tiny, variant):
    """Neither the first one, which creates the optimizer's state, nor one that is not finite."""
    run, mixup = start(tiny, *VARIANTS[variant]), mixup_of(num_classes=8)
    bad = batch(seed=1)
    bad[0][3] = math.inf
    with DeviceReads() as reads:
        updated = [training_step(run, *batch()), training_step(run, *bad), training_step(run, *batch(), mixup)]
    assert reads.found == []
    assert [bool(step.updated) for step in updated] == [True, False, True]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_first_step_that_is_not_finite_is_as_if_it_had_not_been(tiny, variant):
    """Nor has it begun the optimizer's momentum or the moving average."""
    states = []
    for first in ([], [math.nan], [math.inf, math.nan]):
        run = start(tiny, *VARIANTS[variant], "UNIFORMER.DROP_DEPTH_RATE", 0, "SOLVER.MOMENTUM", 0.9)
        scaler = run.scaler.state_dict()
        for value in first:
            clips, labels = batch(seed=1)
            clips[0] = value
            assert not training_step(run, clips, labels).updated
            assert not run.ema_begun
        if run.scaler.is_enabled():
            assert run.scaler.get_scale() < scaler["scale"] or not first, "fp16 tries a smaller scale"
            run.scaler.load_state_dict(scaler)
        for seed in (2, 3):
            torch.manual_seed(seed)
            assert training_step(run, *batch(seed=seed)).updated
        average = run.ema.module.state_dict() if run.ema else {}
        states.append([*run.net.state_dict().values(), *average.values(), *tree_leaves(run.optimizer.state_dict())])
    for state in states[1:]:
        same = [
            torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(state, states[0], strict=True)
        ]
        assert all(same)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_on_a_gpu_nothing_is_copied_back(tiny, monkeypatch):
    """On a device that is none: PyTorch's fake tensors compute shapes and devices. They have no backward pass there."""
    cfg = load_config(None, [*tiny, "MODEL.EMA_EPOCH", 0])
    net, device = build_model(cfg), torch.device("cuda", 0)
    monkeypatch.setattr("slowfast_uniformer.distributed.topology.device", lambda _: device)
    copies = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            given, made = (
                {value.device.type for value in tree_leaves(tree) if isinstance(value, torch.Tensor)}
                for tree in ((args, kwargs), out)
            )
            if "cuda" in given and "cpu" in made:
                copies.append(str(func))
            return out

    def backward(_):
        for parameter in net.parameters():
            parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in net.modules():
            for name, value in module._parameters.items():
                module._parameters[name] = value if value is None else nn.Parameter(value.to(device))
            for name, value in module._buffers.items():
                module._buffers[name] = value if value is None else value.to(device)
        run, sums = RunState(cfg, net, None), RunningSums()
        run.model.train()
        with Copies():
            for _ in range(2):
                step = training_step(run, *batch(), mixup_of(num_classes=8))
                sums.add({"clips": range(8), "errors": []}, step, 0.0)
    assert step.loss.device == step.updated.device == device and copies == []


def test_metrics_are_read_when_they_are_written(tiny):
    run = start(tiny)
    sums, losses, clips = RunningSums(), [], {"clips": range(8), "errors": []}
    with DeviceReads() as reads:
        for seed in range(3):
            step = training_step(run, *batch(seed=seed))
            sums.add(clips, step, 0.0)
            losses.append(step.loss)
        sums.add(clips, step._replace(updated=torch.tensor(False), loss=step.loss * math.nan), 0.0)
    assert reads.found == []
    found = RunningSums(sums.state()).metrics(run.device)
    assert found["loss"] == pytest.approx(float(sum(losses)) / 3) and math.isfinite(found["grad_norm"])
    assert sums.state()[0] == 3 and sums.state()[3] == 32 and found["clips_per_second"] > 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(tiny, precision):
    run = start(tiny, "TRAIN.MIXED_PRECISION", precision)
    losses = [float(training_step(run, *batch()).loss) for _ in range(40)]
    assert losses[-1] < losses[0] - 0.1
    assert all(p.dtype == torch.float32 for p in run.net.parameters())
    assert run.scaler.is_enabled() == (precision == "fp16")


def test_overfits_one_batch(tiny):
    run = start(tiny, "SOLVER.BASE_LR", 3e-3)
    for _ in range(120):
        step = training_step(run, *batch())
        if step.loss < 0.1:
            break
    assert step.loss < 0.1 and step.correct == 8


def test_the_moving_average_follows_and_is_what_is_evaluated(tiny):
    run = start(tiny, "MODEL.EMA_EPOCH", 0, "MODEL.EMA_DECAY", 0.9)
    assert run.unsharded_eval_model() is run.net
    training_step(run, *batch())
    first = state_of(run)
    training_step(run, *batch(seed=1))
    assert run.unsharded_eval_model() is run.ema.module
    name = "head.weight"
    expected = 0.9 * first[name] + 0.1 * run.net.state_dict()[name]
    torch.testing.assert_close(run.ema.module.state_dict()[name], expected)


def test_light_models_train_on_both_heads(tiny):
    run = start(tiny, *pairs(LIGHT))
    before = state_of(run)
    assert training_step(run, *batch()).updated
    changed = {
        name.split(".")[0] for name, value in run.net.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {"head", "head_cls"} <= changed


@pytest.mark.slow
def test_compiled_blocks_take_the_same_steps(tiny, monkeypatch):
    """Two blocks of each stage and kind would take minutes to compile: one global block shows the way."""
    # setuptools, which the compiler imports, would not stand that another test has imported distutils
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    small = {
        "MODEL.MODEL_NAME": "Uniformer",
        "UNIFORMER.DEPTH": [0, 0, 1, 0],
        "MODEL.USE_CHECKPOINT": True,
        "MODEL.CHECKPOINT_NUM": [0, 0, 1, 0],
        "SOLVER.OPTIMIZING_METHOD": "sgd",
    }
    runs = [start(tiny, *pairs(small), "MODEL.COMPILE", compiled) for compiled in (False, True)]
    gradient = Mock(wraps=depthwise._tap_gradients)
    monkeypatch.setattr(depthwise, "_tap_gradients", gradient)
    for seed in range(2):
        steps = [training_step(run, *batch(seed=seed)) for run in runs]
        torch.testing.assert_close(steps[0].loss, steps[1].loss, rtol=1e-5, atol=1e-6)
    assert gradient.call_count == 4, "depth-wise kernels get their gradients alike"
    eager, compiled = map(state_of, runs)
    assert eager.keys() == compiled.keys(), "names stay"
    for name in eager:
        torch.testing.assert_close(compiled[name], eager[name], rtol=1e-4, atol=1e-6)


def test_as_many_variants_of_a_block_are_compiled_as_a_model_has(tiny, monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    deep = ["MODEL.MODEL_NAME", "Uniformer", "UNIFORMER.DEPTH", [1, 1, 7, 1], "MODEL.COMPILE", True]
    start(tiny, *deep)
    assert torch._dynamo.config.recompile_limit == 20  # ten blocks, in training and in evaluation
