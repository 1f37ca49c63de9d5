"""Schedules and parameter groups against those of the released programs; optimizers; clipping."""

import math

import pytest
import torch
from device_reads import DeviceReads
from fvcore.common.config import CfgNode
from golden_recipe import golden_json
from torch import nn

from slowfast_uniformer.config.keys import DEFAULTS, get_cfg, read_table
from slowfast_uniformer.engine.optim import (
    OPTIMIZERS,
    POLICIES,
    build_optimizer,
    clip_gradients,
    lr_at,
    param_groups,
    set_lr,
    step_if,
)
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import build_model

SCHEDULES = golden_json("solver", "lr_schedules")
GROUPS = golden_json("solver", "param_groups")
FROZEN = ("conv1.", "class_embedding", "positional_embedding", "ln_pre.", "transformer.resblocks.")


def solver_with(**keys) -> CfgNode:
    solver = get_cfg().SOLVER
    solver.update(keys)
    return solver


@pytest.mark.parametrize("case", SCHEDULES, ids=lambda case: case["solver"]["LR_POLICY"])
def test_schedule_is_the_released_one(case):
    solver = solver_with(**case["solver"])
    for epochs, lr in case["schedule"]:
        assert lr_at(solver, epochs) == pytest.approx(lr, rel=1e-9, abs=1e-15), epochs


def test_schedule_no_longer_than_its_warmup():
    solver = solver_with(MAX_EPOCH=4, WARMUP_EPOCHS=4.0, WARMUP_START_LR=0.0, BASE_LR=1.0, COSINE_AFTER_WARMUP=True)
    assert [lr_at(solver, e) for e in (0, 1, 3)] == pytest.approx([0.0, 0.25, 0.75])


def test_the_names_that_the_config_accepts_are_those_of_the_tables():
    choices = read_table(DEFAULTS.with_name("limits.yaml"))["choices"]
    assert choices["SOLVER.LR_POLICY"] == list(POLICIES)
    assert choices["SOLVER.OPTIMIZING_METHOD"] == list(OPTIMIZERS)


class StandIn(nn.Module):
    """Modules with a state dict's names, shapes and order: batch norms where it has running statistics."""

    def __init__(self, keys: list[tuple[str, list[int]]]):
        super().__init__()
        statistic = ".running_mean"
        batch_norms = {name.removesuffix(statistic) for name, _ in keys if name.endswith(statistic)}
        for name, shape in keys:
            *path, leaf = name.split(".")
            module = self
            for depth, part in enumerate(path, 1):
                if part not in module._modules:
                    norm = ".".join(path[:depth]) in batch_norms
                    module.add_module(part, nn.BatchNorm3d(shape[0], device="meta") if norm else nn.Module())
                module = module._modules[part]
            if ".".join(path) not in batch_norms:
                module.register_parameter(leaf, nn.Parameter(torch.empty(shape, device="meta")))


def stand_in(case: dict) -> StandIn:
    names = {name for group in case["groups"] for name in group["params"]}
    if case["case"].startswith("v1"):
        variant = "uniformer_light_ls_fp32_xxs" if "xxs" in case["case"] else "uniformer_s"
        keys = golden_json("keys", variant)["keys"]
    else:
        variant = "uniformerv2_b16_sth_f16" if "sth" in case["case"] else "uniformerv2_b16_k_f8"
        keys = golden_json("keys", variant)["keys"]
    frozen = case["case"].endswith("frozen")
    model = StandIn([(name, shape) for name, shape in keys if not frozen or "balance" not in name])
    for name, p in model.named_parameters():
        p.requires_grad = not (frozen and name.removeprefix("backbone.").startswith(FROZEN))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == names
    return model


@pytest.mark.parametrize("case", GROUPS, ids=lambda case: f"{case['case']}-{case['optimizer_module']}")
def test_groups_are_the_released_ones(case):
    """Where learning rates differ, two layers stand in for what chose them there."""
    model = stand_in(case)
    factors = sorted({group["lr_mult"] for group in case["groups"]}, key=lambda factor: factor == 1.0)
    model.layer_groups = lambda: [
        [name for group in case["groups"] if group["lr_mult"] == factor for name in group["params"]]
        for factor in factors
    ]
    keys = ("ZERO_WD_1D_PARAM", "WEIGHT_DECAY")
    decay = factors[0] if len(factors) > 1 else 1.0
    solver = solver_with(**{key: case["solver"][key] for key in keys}, LAYER_DECAY=decay)
    groups = param_groups(model, solver, bn_weight_decay=0.0)
    assert [(g["lr_mult"], g["weight_decay"], g["names"]) for g in groups] == [
        (g["lr_mult"], g["weight_decay"], g["params"]) for g in case["groups"]
    ]
    by_name = dict(model.named_parameters())
    assert all(p is by_name[name] for g in groups for p, name in zip(g["params"], g["names"], strict=True))


@pytest.mark.parametrize("method", ["sgd", "adam", "adamw"])
def test_build_optimizer(method):
    cfg = get_cfg()
    cfg.SOLVER.update(OPTIMIZING_METHOD=method, BASE_LR=1e-4, WEIGHT_DECAY=0.05, MOMENTUM=0.8, NESTEROV=True)
    optimizer = build_optimizer(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), cfg)
    assert type(optimizer).__name__.lower() == method
    wanted = {"lr": 1e-4, "weight_decay": 0.05}
    if method == "sgd":
        wanted |= {"momentum": 0.8, "dampening": 0.0, "nesterov": True}
    else:
        wanted |= {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False}
    assert {key: optimizer.defaults[key] for key in wanted} == wanted
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.05]


def test_batch_norms_take_their_own_decay_and_exempt_names_none():
    model = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Linear(2, 2))
    model.no_weight_decay = lambda: {"2.weight"}
    groups = param_groups(model, solver_with(WEIGHT_DECAY=0.1, ZERO_WD_1D_PARAM=True), bn_weight_decay=0.01)
    assert [(g["weight_decay"], g["names"]) for g in groups] == [
        (0.01, ["1.weight", "1.bias"]),
        (0.1, ["0.weight"]),
        (0.0, ["0.bias", "2.weight", "2.bias"]),
    ]


def test_layer_decay_survives_the_schedule_and_a_checkpoint():
    cfg = get_cfg()
    cfg.SOLVER.update(LAYER_DECAY=0.5, OPTIMIZING_METHOD="adamw")
    cfg.UNIFORMER.update(DEPTH=[1, 1, 1, 1], EMBED_DIM=[8, 8, 8, 8], HEAD_DIM=4)
    cfg.MODEL.NUM_CLASSES = 3
    model = build_model(cfg)
    optimizer = build_optimizer(model, cfg)
    assert set_lr(optimizer, 0.2) == 0.2
    lr_of = {name: g["lr"] for g in optimizer.param_groups for name in g["names"]}
    for above, layer in enumerate(reversed(model.layer_groups())):
        assert {lr_of[name] for name in layer} == {0.2 * 0.5**above}
    assert lr_of["head.weight"] == 0.2 and lr_of["patch_embed1.proj.weight"] == pytest.approx(0.2 / 32)

    restored = build_optimizer(model, cfg)
    restored.load_state_dict(optimizer.state_dict())
    set_lr(restored, 0.4)
    assert {name: g["lr"] for g in restored.param_groups for name in g["names"]} == pytest.approx(
        {name: 2 * lr for name, lr in lr_of.items()}
    )


def test_layer_decay_needs_all_layers():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(UserError, match="SOLVER.LAYER_DECAY: the model Sequential has no layer_groups"):
        param_groups(model, solver_with(LAYER_DECAY=0.9), 0.0)
    model.layer_groups = lambda: [["0.weight", "0.bias"], ["1.weight"]]
    with pytest.raises(UserError, match="leaves out 1.bias$"):
        param_groups(model, solver_with(LAYER_DECAY=0.9), 0.0)


def test_a_model_without_anything_to_train_is_refused():
    with pytest.raises(UserError, match="Linear: all parameters are frozen"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), get_cfg())


def test_settings_that_contradict_are_refused():
    cfg = get_cfg()
    cfg.SOLVER.update(OPTIMIZING_METHOD="sgd", NESTEROV=True, MOMENTUM=0.0)
    with pytest.raises(UserError, match="SOLVER: sgd refuses these settings: Nesterov"):
        build_optimizer(nn.Linear(2, 2), cfg)


def with_gradients() -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    return parameters


@pytest.mark.parametrize("max_norm, after", [(None, 5.0), (0, 5.0), (20.0, 5.0), (1.0, 1.0)])
def test_clip_gradients(max_norm, after):
    parameters = with_gradients()
    assert clip_gradients(iter(parameters), max_norm) == torch.tensor(5.0)
    norm = torch.cat([p.grad for p in parameters[:2]]).norm().item()
    assert norm == pytest.approx(after, rel=1e-5)


def test_norm_that_is_not_finite_is_reported():
    parameters = with_gradients()
    parameters[0].grad[0] = math.inf
    assert clip_gradients(parameters, 0) == math.inf and parameters[1].grad == 4.0


SGD = {"momentum": 0.9, "weight_decay": 0.1}
STEPS_IF = {
    "adamw": (torch.optim.AdamW, {"fused": True}, False),
    "adam": (torch.optim.Adam, {"fused": True, "weight_decay": 0.1}, False),
    "sgd": (torch.optim.SGD, {"fused": True, "nesterov": True, **SGD}, False),
    "sgd without momentum": (torch.optim.SGD, {"fused": True}, False),
    "sgd with dampening": (torch.optim.SGD, {"fused": True, "dampening": 0.3, **SGD}, "at first"),
    "not fused": (torch.optim.AdamW, {"fused": False}, True),
    "without fused kernels": (torch.optim.RMSprop, {}, True),
}


@pytest.mark.parametrize("method", STEPS_IF)
@pytest.mark.parametrize("finite", [(True, True), (False, True, False, True), (True, False, False, True)])
def test_steps_that_are_not_finite_are_as_if_they_had_not_been(method, finite):
    """Whatever the optimizer, and bit for bit; only where it must does it wait for the device."""
    build, options, waits = STEPS_IF[method]
    found = []
    for skipping in (True, False):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(2))]
        optimizer = build([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=0.1, **options)
        for number, update in enumerate(finite):
            if not update and not skipping:
                continue
            torch.manual_seed(number)
            for p in parameters[:2]:  # the last has no gradient
                p.grad = torch.randn_like(p) if update else torch.full_like(p, math.nan)
            parameters[0].grad[0] *= -0.0
            if not skipping:
                optimizer.step()
                continue
            begun = len(optimizer.state) > 0
            with DeviceReads() as reads:
                step_if(optimizer, torch.tensor(update))
            assert bool(reads.found) == (not begun if waits == "at first" else waits)
            assert not hasattr(optimizer, "found_inf")
        state = [(name, value) for p in parameters for name, value in optimizer.state.get(p, {}).items()]
        found.append([("parameter", p.detach()) for p in parameters] + state)
    assert len(found[0]) == len(found[1])
    for (name, one), (_, other) in zip(*found, strict=True):
        bits = (value.view(torch.int32) if value.is_floating_point() else value for value in (one, other))
        assert torch.equal(*bits), name
