"""UniFormerV2 against figures of the released one, and what it must do besides."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_recipe import GOLDEN, fill, golden_cases, golden_clip, golden_json, golden_model, summary
from torch import nn

from slowfast_uniformer.config.keys import get_cfg
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.optim import param_groups
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.layers import resize_position
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.models.uniformerv2 import GlobalBlock, Layer, Uniformerv2

VIT = {"width": 32, "layers": 4, "heads": 4, "patch_size": 8, "input_resolution": 32}
SMALL = VIT | {
    "num_classes": 5,
    "n_layers": 3,
    "n_dim": 32,
    "n_head": 4,
    "mlp_factor": 2.0,
    "mlp_dropout": [0.0] * 3,
    "cls_dropout": 0.0,
    "return_list": [1, 2, 3],
    "temporal_downsample": False,
}
FUSIONS = ("sequential", "parallel", "hierarchical_kv", "hierarchical_q")
CLIP = (2, 3, 4, 32, 32)


def small(**options) -> Uniformerv2:
    torch.manual_seed(0)
    return Uniformerv2(**SMALL | options)


@pytest.mark.parametrize("case", golden_cases("keys", "uniformerv2_*"))
def test_names_shapes_and_order_of_the_state_dict(case):
    golden = golden_json("keys", case)
    with torch.device("meta"):
        model = golden_model(case, golden["config"])
    assert [[name, list(value.shape)] for name, value in model.state_dict().items()] == golden["keys"]
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == golden["trainable_params"]


@pytest.mark.parametrize("case", golden_cases("forward", "v2_*"))
def test_reduced_models_in_evaluation_and_training(case):
    golden = golden_json("forward", case)
    arrays = np.load(GOLDEN / "forward" / f"{case}.npz")
    model, clip = fill(golden_model(case, golden["config"])), golden_clip(golden["input_shape"])
    with torch.no_grad():
        logits = model.eval()(clip)
    np.testing.assert_allclose(logits, arrays["eval_logits"], rtol=0, atol=5e-6)
    logits = model.train()(clip)
    np.testing.assert_allclose(logits.detach(), arrays["train_logits"], rtol=0, atol=5e-6)
    loss = F.cross_entropy(logits, torch.tensor(golden["labels"]))
    assert loss.item() == pytest.approx(golden["train_loss"], abs=1e-5)
    loss.backward()
    for name, value in model.named_parameters():
        wanted = golden["grads"][name]
        assert (wanted is None) == (value.grad is None) == (name in golden["no_grad_params"]), name
        if wanted is not None:
            found = summary(name, value.grad)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * wanted[0] + 1e-6, err_msg=name)
    buffers = dict(model.named_buffers())
    for name, figures in golden["buffers_after_train_step"].items():
        found = buffers[name].double()
        assert [found.norm().item(), found.sum().item()] == pytest.approx(figures, rel=1e-5, abs=1e-5), name


@pytest.mark.slow
def test_the_full_size_model():
    golden = golden_json("forward", "full_uniformerv2_b16_k_f8")
    model = fill(golden_model("full_uniformerv2_b16_k_f8", golden["config"])).eval()
    with torch.no_grad():
        logits = model(golden_clip(golden["input_shape"]))
    wanted = np.load(GOLDEN / "forward" / "full_uniformerv2_b16_k_f8.npz")["eval_logits"]
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("no_lmhra", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_new_model_hands_its_head_half_the_mean_class_token_of_the_frames(fusion, no_lmhra):
    model = small(fusion=fusion, no_lmhra=no_lmhra).eval()
    clip = torch.randn(CLIP)
    seen = {}
    model.backbone.transformer.proj.register_forward_pre_hook(lambda _, args: seen.update(head=args[0]))
    hook = model.backbone.transformer.resblocks[-1].register_forward_hook(
        lambda module, args, output: seen.update(last=output)
    )
    with torch.no_grad():
        model(clip)
        hook.remove()
        frames = [image_vit(model, clip[:, :, t]) for t in range(4)]
    torch.testing.assert_close(seen["head"], 0.5 * torch.stack(frames).mean(dim=0), rtol=1e-5, atol=1e-6)
    assert seen["last"].shape == (2, 4, 17, 32)


def image_vit(model: Uniformerv2, images: torch.Tensor) -> torch.Tensor:
    """The class token of the ViT's last layer, from PyTorch's own modules: images (B, 3, H, W) -> (B, C)."""
    tensors, eps = model.backbone.state_dict(), 1e-5
    x = F.conv2d(images, tensors["conv1.weight"][:, :, 0], stride=8).flatten(2).transpose(1, 2)
    cls = tensors["class_embedding"].expand(len(x), 1, -1)
    x = torch.cat((cls, x), dim=1) + tensors["positional_embedding"]
    x = F.layer_norm(x, (32,), tensors["ln_pre.weight"], tensors["ln_pre.bias"], eps)
    for index in range(4):
        part = {
            name.removeprefix(f"transformer.resblocks.{index}."): value
            for name, value in tensors.items()
            if name.startswith(f"transformer.resblocks.{index}.")
        }
        attention = nn.MultiheadAttention(32, 4, batch_first=True)
        attention.load_state_dict({n.removeprefix("attn."): v for n, v in part.items() if n.startswith("attn.")})
        y = F.layer_norm(x, (32,), part["ln_1.weight"], part["ln_1.bias"], eps)
        x = x + attention(y, y, y, need_weights=False)[0]
        y = F.layer_norm(x, (32,), part["ln_2.weight"], part["ln_2.bias"], eps)
        y = F.linear(y, part["mlp.c_fc.weight"], part["mlp.c_fc.bias"])
        x = x + F.linear(y * (1.702 * y).sigmoid(), part["mlp.c_proj.weight"], part["mlp.c_proj.bias"])
    return x[:, 0]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusions_pass_on_what_their_names_say(fusion):
    """With global blocks that add the mean of the tokens they see to each query, sums tell who saw what."""
    model, calls, means, heads = small(fusion=fusion, no_lmhra=True, frozen=True), [], [], []

    class AddsMean(nn.Module):
        def forward(self, query, tokens):
            calls.append((query.shape[1], tokens.shape[1]))
            means.append(tokens[:, -4 * 17 :].mean(dim=1))  # the frames' tokens alone
            return query + tokens.mean(dim=1, keepdim=True)

    model.backbone.transformer.dec = nn.ModuleList(AddsMean() for _ in range(3))
    model.backbone.transformer.proj.register_forward_pre_hook(lambda _, args: heads.append(args[0]))
    with torch.no_grad():
        model(torch.randn(CLIP))
    a, b, c = means
    after_a, after_b = a, (68 * b + a) / 69
    queries, tokens, wanted = {
        "sequential": ((1, 1, 1), (68, 68, 68), a + b + c),
        "parallel": ((1, 1, 1), (68, 68, 68), None),
        "hierarchical_kv": ((1, 1, 1), (68, 69, 69), (68 * c + after_b) / 69),
        "hierarchical_q": ((1, 2, 3), (68, 68, 68), (a + b + c + b + c + c) / 3),
    }[fusion]
    if fusion == "parallel":
        wanted = model.backbone.transformer.join(torch.cat((after_a, b, c), dim=1))
    assert calls == list(zip(queries, tokens, strict=True))
    torch.testing.assert_close(heads[0], wanted)


def test_only_fusions_other_than_the_released_one_add_parameters():
    names = {fusion: set(small(fusion=fusion).state_dict()) for fusion in FUSIONS}
    assert names["sequential"] == names["hierarchical_kv"] == names["hierarchical_q"]
    assert names["parallel"] - names["sequential"] == {
        f"backbone.transformer.join.{kind}" for kind in ("weight", "bias")
    }
    assert small().backbone.transformer.temporal_cls_token.shape == (1, 1, 32)
    assert small(fusion="parallel").backbone.transformer.temporal_cls_token.shape == (1, 3, 32)


@pytest.mark.parametrize("no_lmhra", [False, True])
def test_frozen_parameters_stay_and_all_others_move(no_lmhra):
    model = small(frozen=True, no_lmhra=no_lmhra)
    fill(model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    for step in range(10):
        clip = torch.randn(CLIP, generator=torch.Generator().manual_seed(step))
        model.train()(clip).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    frozen = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
    assert frozen == set(model.image_backbone())
    assert not any("lmhra" in name for name in frozen) and "backbone.conv1.weight" in frozen
    assert model.backbone.transformer.balance is None


@pytest.mark.parametrize("shape", [(1, 3, 2, 32, 32), (1, 3, 5, 48, 32), (1, 3, 4, 40, 56), (1, 3, 3, 35, 43)])
@pytest.mark.parametrize("temporal_downsample", [False, True])
def test_clips_of_other_sizes(shape, temporal_downsample):
    model = small(temporal_downsample=temporal_downsample).eval()
    with torch.no_grad():
        assert model(torch.randn(shape)).isfinite().all()


def test_the_position_embedding_is_interpolated():
    embedding = torch.cat((torch.full((1, 2), 9.0), torch.arange(16.0).repeat(2, 1).T))
    assert resize_position(embedding, (4, 4)) is embedding
    resized = resize_position(embedding, (8, 2))
    assert resized.shape == (17, 2) and torch.equal(resized[0], embedding[0])
    wanted = F.interpolate(embedding[1:].T.view(1, 2, 4, 4), (8, 2), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized[1:].T.reshape(1, 2, 8, 2), wanted)


@pytest.mark.parametrize(
    "options",
    [{"mlp_dropout": [0.5] * 3}, {"cls_dropout": 0.5}, {"drop_path_rate": 0.5}, {"backbone_drop_path_rate": 0.5}],
)
def test_each_kind_of_dropout_acts_in_training_only(options):
    model, clip = fill(small(**options)), torch.randn(CLIP)
    without = fill(small())
    assert torch.equal(model.eval()(clip), without.eval()(clip))
    outputs = [model.train()(clip) for _ in range(6)]
    assert any(not torch.equal(output, outputs[0]) for output in outputs)


def test_stochastic_depth_rises_linearly():
    model = small(backbone_drop_path_rate=0.3, drop_path_rate=0.4)
    rates = [[m.drop_path.p for m in model.modules() if isinstance(m, kind)] for kind in (Layer, GlobalBlock)]
    assert rates[0] == pytest.approx([0, 0.1, 0.2, 0.3]) and rates[1] == pytest.approx([0, 0.2, 0.4])


def test_other_vit_variants():
    options = {"activation": "gelu", "layer_scale": True, "ln_pre": False, "norm_eps": 1e-6}
    model, clip = fill(small(**options)).eval(), torch.randn(CLIP)
    assert "backbone.ln_pre.weight" not in model.state_dict()
    assert {key.lower(): value for key, value in model.vit_variant.items()} == options
    logits = model(clip)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".ls_" in name:
                value.zero_()
    assert not torch.allclose(model(clip), logits)  # scaled away
    names = [name for name in model.image_backbone() if ".ls_" in name]
    assert len(names) == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 5}, "WIDTH 32 and N_DIM 32 must divide into HEADS 5"),
        ({"n_dim": 64}, "UNIFORMERV2.N_DIM 64 must be the backbone's width, 32"),
        ({"return_list": [1, 2]}, "RETURN_LIST and MLP_DROPOUT must have an entry for each of N_LAYERS 3"),
        ({"return_list": [1, 3, 2]}, "RETURN_LIST .* must rise"),
        ({"return_list": [1, 2, 4]}, "name layers from 0 to 3"),
    ],
)
def test_impossible_options_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        small(**wrong)


def test_building_from_a_config():
    keys = ["WIDTH", 32, "LAYERS", 4, "HEADS", 4, "PATCH_SIZE", 8, "INPUT_RESOLUTION", 32, "N_DIM", 32, "N_HEAD", 4]
    keys += ["RETURN_LIST", "[0,1,2,3]", "BACKBONE", "vit", "ACTIVATION", "gelu", "NORM_EPS", 1e-6]
    pairs = [f"UNIFORMERV2.{item}" if i % 2 == 0 else item for i, item in enumerate(keys)]
    name = ["NUM_GPUS", 0, "MODEL.MODEL_NAME", "Uniformerv2"]
    model = build_model(load_config(None, [*name, *pairs]))
    assert model.vit_variant == {"ACTIVATION": "gelu", "LAYER_SCALE": False, "LN_PRE": True, "NORM_EPS": 1e-6}
    with pytest.raises(UserError, match="UNIFORMERV2.BACKBONE: 'vit_b16' is not one of 'uniformerv2_b16'"):
        build_model(load_config(None, [*name, "UNIFORMERV2.BACKBONE", "vit_b16"]))


def test_an_eps_that_yaml_reads_as_text_is_a_number(tmp_path):
    (tmp_path / "x.yaml").write_text("NUM_GPUS: 0\nUNIFORMERV2:\n  NORM_EPS: 1e-6\n")
    assert load_config(str(tmp_path / "x.yaml")).UNIFORMERV2.NORM_EPS == 1e-6
    for key, wrong in (("NORM_EPS", "small"), ("ACTIVATION", "swish"), ("LN_PRE", "perhaps")):
        with pytest.raises(UserError, match=f"UNIFORMERV2.{key}"):
            load_config(None, ["NUM_GPUS", 0, f"UNIFORMERV2.{key}", wrong])


def test_a_learning_rate_factor_of_0_keeps_the_image_vit_and_its_class_tokens():
    model, solver = small(no_lmhra=True), get_cfg().SOLVER
    solver.BACKBONE_LR_RATIO = 0.0
    groups = param_groups(model, solver, 0.0)
    assert not {name for group in groups for name in group["names"]} & set(model.image_backbone())
    tokens = []
    model.backbone.transformer.resblocks[-1].register_forward_hook(lambda *given: tokens.append(given[2]))
    model(torch.randn(2, 3, 4, 32, 32)).sum().backward()
    assert not tokens[0].requires_grad  # nothing goes back through the ViT
    got = {name for name, p in model.named_parameters() if p.grad is not None}
    assert got == {name for name, _ in model.named_parameters()} - set(model.image_backbone())


def test_learning_rates_of_the_image_vit_and_of_named_parts():
    model = small()
    solver = get_cfg().SOLVER
    solver.BACKBONE_LR_RATIO, solver.SPECIAL_LIST, solver.SPECIAL_RATIO = 0.5, [".dec.", "lmhra"], 10.0
    found = {n: group["lr_mult"] for group in param_groups(model, solver, 0.0) for n in group["names"]}
    for name, _ in model.named_parameters():
        backbone, special = name in model.image_backbone(), ".dec." in name or "lmhra" in name
        assert found[name] == (0.5 if backbone else 10.0 if special else 1.0), name
    solver.SPECIAL_LIST = ["nowhere"]
    with pytest.raises(UserError, match="SOLVER.SPECIAL_LIST: no parameter .* 'nowhere'"):
        param_groups(model, solver, 0.0)
    with pytest.raises(UserError, match="SOLVER.BACKBONE_LR_RATIO: the model Linear has no image_backbone"):
        param_groups(nn.Linear(2, 2), solver, 0.0)
