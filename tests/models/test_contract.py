"""The contract of models: every registered model keeps it, and a minimal user model may lack what is optional."""

import pytest
import torch
from small_models import CLASSES, SMALL, small_clip, small_model, training_step
from torch import nn

from slowfast_uniformer.analysis.model_cost import step_cost
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine import probe
from slowfast_uniformer.engine.optim import build_optimizer
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.predictor import Predictor
from slowfast_uniformer.models.registry import MODEL_REGISTRY, build_model
from slowfast_uniformer.weights.load import load_weights

REGISTERED = sorted(name for name, _ in MODEL_REGISTRY)
each_model = pytest.mark.parametrize("label", SMALL)


def test_every_registered_model_has_a_small_build():
    assert {name for name, _ in SMALL.values()} == set(REGISTERED)


@each_model
@pytest.mark.parametrize("autocast", [False, True])
def test_training_gives_every_parameter_a_finite_gradient(label, autocast):
    model = small_model(label)
    outputs = training_step(model, autocast)
    assert all(output.shape == (2, CLASSES) and output.isfinite().all() for output in outputs)
    for name, value in model.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
        if not value.requires_grad:
            continue
        assert value.grad.isfinite().all(), name
        assert value.grad.stride() == value.stride(), f"{name}: DDP would copy it and warn"


@each_model
@pytest.mark.parametrize("autocast", [False, True])
def test_evaluation_is_independent_of_the_batch(label, autocast):
    model, clip = small_model(label).eval(), small_clip()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits, alone = model(clip), model(clip[1:])
        features = model.forward_features(clip)
    assert logits.shape == (2, CLASSES) and features.shape == (2, model.num_features)
    torch.testing.assert_close(logits[1:], alone, rtol=0, atol=2e-2 if autocast else 1e-5)


of_tokens = pytest.mark.parametrize(
    "label", [label for label in SMALL if label.startswith("Uniformer") and not label.endswith("attentive")]
)


@of_tokens
def test_frame_features_are_in_order_and_those_of_v1_average_to_the_features(label):
    model = small_model(label).eval()
    clip = torch.rand(2, 3, 8, 32, 32)
    with torch.no_grad():
        frames, features = model.forward_frames(clip), model.forward_features(clip)
        clip[:, :, 7] = -clip[:, :, 7]  # the last frame, which all frames of the last time step depend on
        changed = (model.forward_frames(clip) - frames).abs().amax(dim=(0, 2))
    halved = not label.startswith("Uniformerv2") or label == "Uniformerv2 temporal"
    assert frames.shape == (2, 4 if halved else 8, model.num_features)
    assert changed.argmax() == len(changed) - 1
    if not label.startswith("Uniformerv2"):
        torch.testing.assert_close(frames.mean(dim=1), features)


@of_tokens
def test_tokens_come_with_the_features_and_those_of_v1_average_to_them(label):
    model = small_model(label).eval()
    clip = torch.rand(2, 3, 8, 32, 64)
    with torch.no_grad():
        features, tokens = model.forward_tokens(clip, 4)
        _, coarse = model.forward_tokens(clip, 1)
        frames = model.forward_frames(clip)
        torch.testing.assert_close(features, model.forward_features(clip))
    if label.startswith("Uniformerv2"):
        assert tokens.shape == (2, *frames.shape[1:2], 1 + 16, model.num_features)
        norm = model.backbone.transformer.proj[0]
        torch.testing.assert_close(tokens[:, :, 0], norm(frames))
        torch.testing.assert_close(coarse[:, :, 1], tokens[:, :, 1:].mean(dim=2))
    else:
        assert tokens.shape == (2, 4, 2, model.num_features)  # 1 x 2 patches are fewer than the grid
        torch.testing.assert_close(tokens.mean(dim=(1, 2)), features)
        torch.testing.assert_close(coarse[:, :, 0], frames)


@each_model
def test_reset_classifier_changes_the_classes_and_nothing_else(label):
    model, clip = small_model(label).eval(), small_clip()
    features = model.forward_features(clip)
    model.reset_classifier(CLASSES + 2)
    assert model(clip).shape == (2, CLASSES + 2)
    assert torch.equal(model.forward_features(clip), features)
    assert all(output.shape == (2, CLASSES + 2) for output in training_step(model))


@each_model
def test_layer_groups_hold_every_parameter_once_from_input_to_head(label):
    model = small_model(label)
    groups, names = model.layer_groups(), [name for name, _ in model.named_parameters()]
    assert sorted(name for group in groups for name in group) == sorted(names)
    assert all(isinstance(module, nn.Module) for stage in model.stages() for block in stage for module in block)
    assert all(groups) and len(groups) >= 2 + sum(map(len, model.stages()))
    shapes = {name: value.shape for name, value in model.named_parameters()}
    assert any(shapes[name][1:2] == (3,) and len(shapes[name]) == 5 for name in groups[0])  # reads the clip
    heads = {f"{head}.{kind}" for head in model.classifier for kind in ("weight", "bias")}
    assert heads <= set(groups[-1])
    assert model.no_weight_decay() <= set(names)


class Minimal(nn.Module):
    """The required part of the contract."""

    classifier = ("head",)

    def __init__(self, cfg):
        super().__init__()
        self.head = nn.Linear(3, cfg.MODEL.NUM_CLASSES)

    def forward(self, x):
        return self.head(x.mean((2, 3, 4)))


@pytest.fixture(name="minimal_cfg")
def fixture_minimal_cfg(monkeypatch):
    """A function of KEY, VALUE, ... that returns the config of a minimal user model."""
    monkeypatch.setattr(MODEL_REGISTRY, "_obj_map", dict(MODEL_REGISTRY))
    MODEL_REGISTRY.register(Minimal)
    return lambda *options: load_config(
        None, ["NUM_GPUS", 0, "MODEL.MODEL_NAME", "Minimal", "MODEL.NUM_CLASSES", CLASSES, *options]
    )


def test_a_minimal_model_is_built_optimised_loaded_and_evaluated(minimal_cfg):
    cfg = minimal_cfg()
    model = build_model(cfg)
    assert sum(len(group["params"]) for group in build_optimizer(model, cfg).param_groups) == 2
    assert load_weights(model, model.state_dict()).fraction == 1
    predictor = Predictor(cfg, model.eval(), [])
    assert predictor.logits(small_clip()).shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("MODEL.USE_CHECKPOINT", True, "set_grad_checkpointing"),
        ("SOLVER.LAYER_DECAY", 0.7, "layer_groups"),
        ("SOLVER.BACKBONE_LR_RATIO", 0.1, "image"),
    ],
)
def test_a_key_that_needs_an_optional_part_names_key_class_and_part(minimal_cfg, key, value, part):
    cfg = minimal_cfg(key, value)
    with pytest.raises(UserError, match=f"{key}: .*Minimal.* {part}"):
        build_optimizer(build_model(cfg), cfg)


def test_features_of_a_minimal_model_are_refused(minimal_cfg):
    cfg = minimal_cfg()
    predictor = Predictor(cfg, build_model(cfg).eval(), [])
    with pytest.raises(UserError, match="features: the model Minimal has no forward_features"):
        predictor.features(small_clip())
    with pytest.raises(UserError, match="MODEL.MODEL_NAME: Minimal has no features"):
        predictor.frame_features(small_clip())


def test_activation_checkpointing_of_a_minimal_model_is_not_described(minimal_cfg):
    with pytest.raises(UserError, match="MODEL.USE_CHECKPOINT: the model Minimal has no set_grad_checkpointing"):
        step_cost(minimal_cfg(), checkpointed=1)


@pytest.mark.parametrize("classifier", [None, "head", (), ("heads",)])
def test_a_wrong_classifier_is_refused_when_the_model_is_built(minimal_cfg, monkeypatch, classifier):
    if classifier is None:
        monkeypatch.delattr(Minimal, "classifier")
    else:
        monkeypatch.setattr(Minimal, "classifier", classifier)
    with pytest.raises(UserError, match="MODEL.MODEL_NAME: .*Minimal.*classifier"):
        build_model(minimal_cfg())


def test_a_model_without_classifier_takes_no_weights():
    layer = nn.Linear(2, 2)
    with pytest.raises(UserError, match="x.pyth: the model Linear has no classifier"):
        load_weights(layer, layer.state_dict(), source="x.pyth")


def test_a_probe_needs_linear_classifiers_with_a_bias(minimal_cfg):
    model = build_model(minimal_cfg())
    model.head = nn.Linear(3, CLASSES, bias=False)
    with pytest.raises(
        UserError, match="MODEL.INIT_HEAD probe: Minimal.classifier names head, which must be an nn.Lin"
    ):
        probe.fit_classifiers(model, None, minimal_cfg())
