"""UniFormer V1 and its light models against figures of the released ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_recipe import GOLDEN, fill, golden_cases, golden_clip, golden_json, golden_model, summary
from small_models import small_clip, small_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.uniformer import GlobalBlock, LocalBlock, Uniformer, UniformerLight
from slowfast_uniformer.ops.implementations import set_implementations

REDUCED = {"num_classes": 5, "embed_dim": [16, 32, 64, 128], "depth": [1, 1, 2, 1], "head_dim": 16}
REDUCED |= {"drop_depth_rate": 0.0}
PRUNING = {"prune_ratio": [[], [], [1, 0.5], [0.5]], "trade_off": [[], [], [1, 0.5], [0.5]]}
PRUNED_FIRST = {"prune_ratio": [[], [], [1, 0.5, 1], [0.5]], "trade_off": [[], [], [1, 0.5, 0.5], [0.5]]}
CLIP = (2, 3, 4, 32, 32)


@pytest.mark.parametrize("case", golden_cases("keys", "uniformer_*"))
def test_names_shapes_and_order_of_the_state_dict(case):
    golden = golden_json("keys", case)
    with torch.device("meta"):
        model = golden_model(case, golden["config"])
    assert [[name, list(value.shape)] for name, value in model.state_dict().items()] == golden["keys"]
    assert sum(value.numel() for value in model.parameters()) == golden["params"]


@pytest.mark.parametrize("case", golden_cases("forward", "v1_*"))
def test_reduced_models_in_evaluation_and_training(case):
    golden = golden_json("forward", case)
    arrays = np.load(GOLDEN / "forward" / f"{case}.npz")
    model, clip = fill(golden_model(case, golden["config"])), golden_clip(golden["input_shape"])
    with torch.no_grad():
        logits = model.eval()(clip)
    np.testing.assert_allclose(logits, arrays["eval_logits"], rtol=0, atol=2e-5)

    outputs = model.train()(clip)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    wanted = [arrays[key] for key in ("train_logits", "train_logits_cls") if key in arrays]
    assert len(outputs) == len(wanted)
    for output, logits in zip(outputs, wanted, strict=True):
        np.testing.assert_allclose(output.detach(), logits, rtol=0, atol=2e-5)
    losses = [F.cross_entropy(output, torch.tensor(golden["labels"])) for output in outputs]
    loss = sum(losses) / len(losses)
    assert loss.item() == pytest.approx(golden["train_loss"], abs=1e-5)

    loss.backward()
    for name, value in model.named_parameters():
        np.testing.assert_allclose(
            summary(name, value.grad),
            golden["grads"][name],
            rtol=0,
            atol=2e-4 * golden["grads"][name][0] + 1e-5,
            err_msg=name,
        )
    buffers = dict(model.named_buffers())
    assert buffers.keys() == golden["buffers_after_train_step"].keys()
    for name, figures in golden["buffers_after_train_step"].items():
        found = buffers[name].double()
        assert [found.norm().item(), found.sum().item()] == pytest.approx(figures, rel=1e-5, abs=1e-5), name


QUICK = ("full_uniformer_s_16x224", "full_uniformer_light_xxs_16x128")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in golden_cases("forward", "full_uniformer_*")
    ],
)
def test_full_size_models(case):
    golden = golden_json("forward", case)
    model = fill(golden_model(case, golden["config"])).eval()
    with torch.no_grad():
        logits = model(golden_clip(golden["input_shape"]))
    np.testing.assert_allclose(logits, np.load(GOLDEN / "forward" / f"{case}.npz")["eval_logits"], rtol=0, atol=1e-4)


def test_stochastic_depth_rises_linearly_over_all_blocks():
    model = Uniformer(**REDUCED | {"drop_depth_rate": 0.4})
    rates = [m.drop_path.p for m in model.modules() if isinstance(m, (LocalBlock, GlobalBlock))]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("rate", ["dropout_rate", "attention_dropout_rate", "drop_depth_rate"])
def test_each_kind_of_dropout_acts_in_training_only(rate, light):
    torch.manual_seed(0)
    clip = torch.randn(CLIP)
    options = REDUCED | (PRUNING if light else {})
    model = (UniformerLight if light else Uniformer)(**options | {rate: 0.5})
    without = (UniformerLight if light else Uniformer)(**options)
    fill(model), fill(without)

    def first(outputs):
        return outputs[0] if light else outputs

    assert torch.equal(model.eval()(clip), without.eval()(clip))
    model.train(), without.train()
    assert torch.equal(first(without(clip)), first(without(clip)))
    assert not torch.equal(first(model(clip)), first(model(clip)))


def test_qkv_scale_replaces_the_default_one():
    clip = torch.randn(CLIP)
    models = [fill(Uniformer(**REDUCED, qkv_scale=scale)).eval() for scale in (None, 16**-0.5, 1.0)]
    default, same, other = (model(clip) for model in models)
    assert torch.equal(default, same)
    assert not torch.allclose(default, other)


def test_representation_is_a_layer_for_each_token_before_the_mean():
    model = fill(Uniformer(**REDUCED, representation_size=24)).eval()
    seen = {}
    model.norm.register_forward_hook(lambda module, args, output: seen.update(tokens=output))
    features = model.forward_features(torch.randn(CLIP))
    assert model.num_features == 24 and features.shape == (2, 24)
    layer = model.get_parameter("pre_logits.fc.weight"), model.get_parameter("pre_logits.fc.bias")
    tokens = seen["tokens"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(features, F.linear(tokens, *layer).tanh().mean(dim=1))


def test_initial_values():
    torch.manual_seed(0)
    model = Uniformer(**REDUCED, split=True)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            assert not module.bias.any(), name
        if isinstance(module, nn.LayerNorm) or name.endswith("t_attn.proj"):
            assert (module.weight == 1).all(), name
        elif name.endswith("t_attn.qkv"):
            assert not module.weight.any(), name
        elif isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15), name
    light = UniformerLight(**REDUCED, **PRUNING, layer_scale=True, init_value=0.25)
    gammas = [value for name, value in light.named_parameters() if "gamma" in name]
    assert len(gammas) == 2 * sum(REDUCED["depth"]) and all((value == 0.25).all() for value in gammas)
    assert not light.cls_token.any()


def test_temporal_attention_of_a_new_split_model_adds_nothing_yet_learns():
    torch.manual_seed(0)
    block = Uniformer(**REDUCED, split=True).blocks3[0]
    x = torch.randn(2, 64, 4, 3, 2)
    expected = block(x)
    expected.square().sum().backward()
    assert block.t_attn.qkv.weight.grad.any()
    with torch.no_grad():
        block.t_norm.weight.mul_(3)
    torch.testing.assert_close(block(x), expected)


def test_light_models_build_stage_3_with_the_last_mlp_ratio():
    model = UniformerLight(**REDUCED, **PRUNING, mlp_ratio=[1, 2, 3, 4])
    stages = (model.blocks1, model.blocks2, model.blocks3, model.blocks4)
    hidden = [stage[0].mlp.fc1.weight.shape[0] for stage in stages]
    assert hidden == [16, 64, 64 * 4, 128 * 4]


def test_an_unpruned_block_mixes_its_score_into_the_running_one():
    model = UniformerLight(**REDUCED, prune_ratio=[[], [], [1, 1], [1]], trade_off=[[], [], [1, 0.25], [1]])
    x, cls = torch.randn(2, 64, 2, 3, 2), torch.randn(2, 1, 64)
    first, second = torch.rand(2, 2, 12).unbind()
    with torch.no_grad():
        scores = [model.blocks3[1](x, cls, score)[2] for score in (first, second)]
    torch.testing.assert_close(scores[0] - scores[1], 0.75 * (first - second))


@pytest.mark.parametrize(
    "build_model",
    [
        lambda: Uniformer(**REDUCED),
        lambda: Uniformer(**REDUCED, split=True),
        lambda: UniformerLight(**REDUCED, **PRUNING),
        lambda: UniformerLight(**REDUCED | {"depth": [1, 1, 3, 1]}, **PRUNED_FIRST),
    ],
    ids=["joint", "split", "light", "light, pruned before"],
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_depthwise_convolutions_need_no_copies(build_model, layout):
    model, kept = set_implementations(build_model(), layout=layout), []
    order = torch.channels_last_3d if layout == "channels_last" else torch.contiguous_format
    for name, module in model.named_modules():
        if name.endswith("pos_embed"):
            module.register_forward_pre_hook(lambda _, args: kept.append(args[0].is_contiguous(memory_format=order)))
    model(torch.randn(CLIP))
    assert len(kept) >= 5 and all(kept)


class Convolutions(TorchDispatchMode):
    """Notes the strides of what depth-wise convolutions take, and those that channels last in memory have."""

    def __init__(self):
        super().__init__()
        self.strides = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op is torch.ops.aten.convolution.default and args[8] > 1:
            expected = torch.empty_like(args[0], memory_format=torch.channels_last_3d)
            self.strides.append((args[0].stride(), expected.stride()))
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("split", [False, True])
def test_convolutions_find_channels_last_whatever_the_batch(split, clips):
    """Of one clip any stride of the batch is right, but they would take the volume for a contiguous one."""
    model = set_implementations(Uniformer(**REDUCED, split=split), layout="channels_last", dw_conv="unrolled")
    with Convolutions() as seen:
        model(torch.randn(clips, *CLIP[1:])).sum().backward()
    forward_and_back = 2 * (2 * 2 + 3)  # two local blocks with two of them, three global ones with one
    assert len(seen.strides) == forward_and_back
    assert all(found == expected for found, expected in seen.strides)


def test_light_models_keep_nothing_between_clips():
    model = fill(UniformerLight(**REDUCED, **PRUNING)).eval()
    clip = torch.randn(CLIP)
    with torch.no_grad():
        before = model(clip)
        model(torch.randn(1, 3, 8, 64, 32))
        assert torch.equal(model(clip), before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prune_ratio": [[], [], [1], [0.5]]}, "PRUNE_RATIO: needs an entry for each block of stage 3"),
        ({"trade_off": [[], [], [1, 0.5]]}, "TRADE_OFF: needs an entry for each block of stage 3"),
        ({"prune_ratio": [[], [], [0.5, 0.5], [0.5]]}, "PRUNE_RATIO: stage 3 must begin with 1"),
        ({"depth": [1, 1, 1]}, "UNIFORMER.DEPTH"),
        ({"mlp_ratio": [4, 4]}, "UNIFORMER.MLP_RATIO"),
        ({"head_dim": 20}, "64 is not divisible into heads of HEAD_DIM 20"),
        ({"head_dim": 100}, "64 is not divisible into heads of HEAD_DIM 100"),
    ],
)
def test_impossible_options_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        UniformerLight(**REDUCED | PRUNING | wrong)


@pytest.mark.parametrize(
    ("label", "dtype"), [("Uniformer_light", torch.bfloat16), ("Uniformer_light_fp32", torch.float32)]
)
def test_forced_fp32_attention_is_fp32_under_autocast(label, dtype):
    seen = set()

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator is torch.ops.aten.bmm.default:  # the only batched products of the model are attention's
                seen.add(args[0].dtype)
            return operator(*args, **(kwargs or {}))

    with torch.autocast("cpu", torch.bfloat16), Products():
        small_model(label).eval()(small_clip())
    assert seen == {dtype}
