"""Checkpoints of other programs: made from this program's tensors under their names, or from timm's models."""

import os
import pickle
import zipfile

import pytest
import timm
import torch
from golden_recipe import fill
from safetensors.torch import save_file
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.uniformer import Uniformer, UniformerLight
from slowfast_uniformer.models.uniformerv2 import Uniformerv2
from slowfast_uniformer.weights.convert import convert
from slowfast_uniformer.weights.formats import convert_format
from slowfast_uniformer.weights.load import Weights, load_weights, read_weights

SIZES = {"width": 32, "layers": 3, "heads": 4, "patch_size": 8, "input_resolution": 32}
VIDEO = SIZES | {
    "num_classes": 5,
    "n_layers": 2,
    "n_dim": 32,
    "n_head": 4,
    "mlp_dropout": [0.0, 0.0],
    "return_list": [1, 2],
    "temporal_downsample": False,
}
V1 = {"embed_dim": [8, 16, 32, 64], "depth": [1, 1, 1, 1], "head_dim": 8, "num_classes": 5}
PRUNING = {"prune_ratio": [[], [], [1], [0.5]], "trade_off": [[], [], [1], [0.5]]}
CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
TEXT = {
    "text_projection": torch.zeros(2, 2),
    "logit_scale": torch.zeros(()),
    "token_embedding.weight": torch.zeros(3, 2),
    "transformer.resblocks.0.ln_1.weight": torch.zeros(2),
}


def v2(**options) -> Uniformerv2:
    return Uniformerv2(**VIDEO | options)


def tower_of(model: Uniformerv2) -> dict[str, torch.Tensor]:
    """The image tower in CLIP's names, without a prefix, kernels without a time axis, in half precision."""
    tensors = {name: model.state_dict()[name] for name in model.image_backbone()}
    tensors = {name.removeprefix("backbone."): value for name, value in tensors.items()}
    tensors["conv1.weight"] = tensors["conv1.weight"].squeeze(2)
    tensors |= {"proj": torch.zeros(32, 4), "ln_post.weight": torch.ones(32), "ln_post.bias": torch.ones(32)}
    return tensors


def openai(model: Uniformerv2) -> dict[str, torch.Tensor]:
    sizes = {name: torch.tensor(3) for name in ("input_resolution", "context_length", "vocab_size")}
    return {f"visual.{name}": value for name, value in tower_of(model).items()} | TEXT | sizes


def open_clip(model: Uniformerv2) -> dict[str, torch.Tensor]:
    tensors = {f"visual.{name}": value for name, value in tower_of(model).items()} | TEXT
    scaled = {name: value for name, value in tensors.items() if ".ls_" in name}
    return {n: v for n, v in tensors.items() if n not in scaled} | {f"{n}.gamma": v for n, v in scaled.items()}


HUGGING_FACE = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.": "pre_layrnorm.",
    "ln_post.": "post_layernorm.",
    ".attn.": ".self_attn.",
    "transformer.resblocks.": "encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".c_fc.": ".fc1.",
    ".c_proj.": ".fc2.",
}


def hugging_face(model: Uniformerv2) -> dict[str, torch.Tensor]:
    tensors = {"visual_projection.weight": torch.zeros(4, 32), "text_model.final_layer_norm.weight": torch.ones(2)}
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    for name, value in tower_of(model).items():
        for own, theirs in HUGGING_FACE.items():
            name = name.replace(own, theirs)
        if "in_proj_" in name:
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                tensors["vision_model." + name.replace("in_proj_", f"{part}_proj.")] = chunk
        elif name != "proj":
            tensors[f"vision_model.{name}"] = value
    return tensors


def mmaction2(model: nn.Module) -> dict[str, torch.Tensor]:
    """Names of mmaction2: everything of the backbone under `backbone.`, the classifier under `cls_head.`"""
    head = model.classifier[0]
    tensors = {"data_preprocessor.mean": torch.zeros(3, 1, 1, 1)}
    for name, value in model.state_dict().items():
        if name.startswith(f"{head}."):
            tensors[name.replace(head, "cls_head.fc_cls")] = value
        elif name.startswith("backbone."):
            tensors[name.replace("transformer.proj.0.", "transformer.norm.")] = value
        else:
            tensors[f"backbone.{name}"] = value
    return tensors


def loaded(path, model: nn.Module, **options):
    weights = read_weights(str(path))
    return weights, load_weights(model, weights, source=str(path), **options)


GELU = {"activation": "gelu"}
IMAGE_FORMATS = {
    "openai": (openai, "CLIP (OpenAI)", {}),
    "visual tower": (tower_of, "CLIP (OpenAI)", {}),
    "open_clip": (open_clip, "CLIP (open_clip)", GELU),
    "open_clip with layer scale": (open_clip, "CLIP (open_clip)", GELU | {"layer_scale": True}),
    "hugging face": (hugging_face, "CLIP (Hugging Face)", {}),
}


@pytest.mark.parametrize("checkpoint_format", IMAGE_FORMATS)
@pytest.mark.parametrize("temporal_downsample", [False, True])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_image_towers_of_clip(tmp_path, checkpoint_format, temporal_downsample, kind):
    names, title, options = IMAGE_FORMATS[checkpoint_format]
    source = fill(v2(**options))
    path = tmp_path / f"x.{kind}"
    tensors = {name: value.contiguous() for name, value in names(source).items()}
    torch.save({"state_dict": tensors}, path) if kind == "pt" else save_file(tensors, path)
    weights = read_weights(str(path))
    model = v2(
        temporal_downsample=temporal_downsample, **{key.lower(): value for key, value in weights.vit_variant.items()}
    )
    assert model.vit_variant == source.vit_variant
    report = load_weights(model, weights, init_head="new")
    assert report.checkpoint_format == title and title in str(report) and not report.unexpected
    assert report.loaded == [n for n in model.state_dict() if n in model.image_backbone()]
    assert report.inflated == ["backbone.conv1.weight"]
    assert all(any(part in name for part in (*model.video_only, "proj.2.")) for name in report.missing)
    if not temporal_downsample:
        rest = {n: v for n, v in source.state_dict().items() if n not in report.loaded}
        model.load_state_dict(rest, strict=False)
        assert torch.equal(model.eval()(CLIP), source.eval()(CLIP))


class Scripted(nn.Module):
    """Holds tensors by dotted names as nested modules, as OpenAI's archives do."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        super().__init__()
        groups: dict[str, dict] = {}
        for name, value in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                groups.setdefault(first, {})[rest] = value
            else:
                self.register_buffer(first, value)
        for name, group in groups.items():
            self.add_module(name, Scripted(group))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_an_openai_archive_is_read_for_its_tensors_alone(tmp_path, monkeypatch):
    source = fill(v2())
    half = {name: v.half() if v.is_floating_point() else v for name, v in openai(source).items()}
    torch.jit.trace(Scripted(half), torch.zeros(1)).save(str(tmp_path / "ViT.pt"))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the archive's code was loaded"))
    weights, report = loaded(tmp_path / "ViT.pt", v2(), init_head="new")
    assert report.checkpoint_format == "CLIP (OpenAI)" and len(report.loaded) == len(source.image_backbone())
    for name, value in weights.tensors.items():
        wanted = source.state_dict()[name].half()
        assert torch.equal(value, wanted.squeeze(2) if name.endswith("conv1.weight") else wanted), name


@pytest.mark.parametrize("archive", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, archive):
    mark = tmp_path / "it ran"

    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    path = tmp_path / "x.pt"
    torch.save({"model": {"w": torch.ones(1)}, "more": Harmful()}, path)
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x/data.pkl", pickle.dumps({"w": Harmful()}))
            file.writestr("x/constants.pkl", pickle.dumps(()))
    with pytest.raises(UserError, match="x.pt: .*mkdir"):
        read_weights(str(path))
    assert not mark.exists()


TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 7}
TIMM_MODELS = {
    "supervised, DINO, MAE": (VisionTransformer, {}),
    "DINOv2": (VisionTransformer, {"init_values": 1e-5}),
    "DeiT III": (VisionTransformer, {"init_values": 1e-5, "no_embed_class": True}),
    "CLIP in timm": (VisionTransformer, {"pre_norm": True, "norm_layer": nn.LayerNorm}),
    "BEiT": (Beit, {"init_values": 0.1, "use_shared_rel_pos_bias": False}),
    "BEiT with relative positions": (Beit, {"init_values": 0.1, "use_rel_pos_bias": True}),
}


@pytest.mark.parametrize("kind", TIMM_MODELS)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_image_vits_of_timm_give_their_class_tokens(tmp_path, kind, prefix):
    """A new UniFormerV2 hands half the mean of the image model's class tokens to its head."""
    build, options = TIMM_MODELS[kind]
    if build is Beit:
        options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4} | options
        options["num_classes"] = 7
    else:
        options = TIMM | options
    image = fill(build(**options)).eval()
    tensors = {f"{prefix}{name}": value for name, value in image.state_dict().items()}
    torch.save({"teacher" if prefix else "model": tensors}, tmp_path / "x.pth")
    if "relative" in kind:
        with torch.no_grad():
            for block in image.blocks:
                block.attn.relative_position_bias_table.zero_()
    weights = read_weights(str(tmp_path / "x.pth"))
    assert weights.image and weights.checkpoint_format == "timm ViT"
    model = v2(**{key.lower(): value for key, value in weights.vit_variant.items()}).eval()
    report = load_weights(model, weights, init_head="new")
    assert set(report.loaded) == set(model.image_backbone()) and not report.unexpected
    assert ("relative position bias, which" in str(report)) == ("relative" in kind)
    seen = {}
    model.backbone.transformer.proj.register_forward_pre_hook(lambda _, args: seen.update(head=args[0]))
    image.norm = nn.Identity()
    with torch.no_grad():
        model(CLIP)
        frames = [image.forward_features(CLIP[:, :, t])[:, 0] for t in range(4)]
    torch.testing.assert_close(seen["head"], 0.5 * torch.stack(frames).mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"reg_tokens": 4}, "more tokens than a class token"),
        ({"qk_norm": True}, "normalized queries"),
        ({"mlp_layer": timm.layers.GluMlp}, "shape mismatch|gated"),
    ],
)
def test_image_vits_that_cannot_be_carried_are_refused(tmp_path, options, what):
    torch.save(VisionTransformer(**TIMM | options).state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"x.pth.*({what})"):
        loaded(tmp_path / "x.pth", v2(activation="gelu", ln_pre=False, norm_eps=1e-6), init_head="new")


def test_the_names_of_gated_mlps_and_resnets_are_known():
    vit = VisionTransformer(**TIMM).state_dict() | {"blocks.0.mlp.w12.weight": torch.zeros(1)}
    with pytest.raises(UserError, match=r"gated MLPs \(blocks.0.mlp.w12.weight\)"):
        convert_format(vit)
    with pytest.raises(UserError, match="a ResNet"):
        convert_format({"visual.layer1.0.conv1.weight": torch.zeros(1), "visual.conv1.weight": torch.zeros(1)})


def test_hugging_face_configurations_tell_the_activation(tmp_path):
    save_file({n: v.contiguous() for n, v in hugging_face(v2()).items()}, tmp_path / "model.safetensors")
    assert read_weights(str(tmp_path / "model.safetensors")).vit_variant["ACTIVATION"] == "quick_gelu"
    (tmp_path / "config.json").write_text('{"vision_config": {"hidden_act": "gelu"}}')
    assert read_weights(str(tmp_path / "model.safetensors")).vit_variant["ACTIVATION"] == "gelu"


@pytest.mark.parametrize(
    "build", [v2, lambda: Uniformer(**V1), lambda: UniformerLight(**V1, **PRUNING)], ids=["v2", "v1", "light"]
)
@pytest.mark.parametrize("wrapper", ["model_state", "model", "state_dict"])
@pytest.mark.parametrize("names", ["releases", "mmaction2", "wrapped"])
def test_video_checkpoints_give_the_same_logits(tmp_path, build, wrapper, names):
    source, model = fill(build()), build()
    tensors = source.state_dict()
    if names == "mmaction2":
        if isinstance(source, UniformerLight):
            pytest.skip("mmaction2 has no light models")
        tensors = mmaction2(source)
    elif names == "wrapped":
        tensors = {f"module._orig_mod.{name}": value for name, value in tensors.items()}
    torch.save({wrapper: tensors, "meta": {"epoch": 3}}, tmp_path / "x.pth")
    _, report = loaded(tmp_path / "x.pth", model)
    assert report.fraction == 1 and not report.missing and not report.unexpected and not report.inflated
    assert torch.equal(model.eval()(CLIP), source.eval()(CLIP))


def test_what_an_image_model_lacks_is_not_forgiven_in_a_video_checkpoint(tmp_path):
    tensors = {n: v for n, v in v2().state_dict().items() if "lmhra" not in n}
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x.pth does not match .* missing \(.*lmhra1"):
        loaded(tmp_path / "x.pth", v2())
    _, report = loaded(tmp_path / "x.pth", v2(), allow=["*.lmhra[12].*"])
    assert all("lmhra" in name for name in report.missing) and report.missing
    with pytest.raises(UserError, match="unexpected"):
        loaded(tmp_path / "x.pth", v2(no_lmhra=True, n_layers=1, return_list=[2]))


def test_an_image_tower_needs_a_new_head(tmp_path):
    torch.save(openai(v2()), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"2 missing \(.*proj.2.weight.*MODEL.INIT_HEAD new"):
        loaded(tmp_path / "x.pth", v2())


@pytest.mark.parametrize("resolution", [16, 48])
def test_position_embeddings_of_another_grid_are_resized(tmp_path, resolution):
    torch.save(v2(input_resolution=resolution).state_dict(), tmp_path / "x.pth")
    model = v2()
    _, report = loaded(tmp_path / "x.pth", model)
    assert report.resized == ["backbone.positional_embedding"] and "1 resized" in str(report)


def test_a_checkpoint_without_a_second_frame_goes_to_the_centre_of_a_longer_kernel(tmp_path):
    source = fill(v2())
    torch.save(source.state_dict(), tmp_path / "x.pth")
    model = v2(temporal_downsample=True)
    _, report = loaded(tmp_path / "x.pth", model)
    assert report.inflated == ["backbone.conv1.weight"]
    kernel = model.backbone.conv1.weight
    assert torch.equal(kernel[:, :, 1:2], source.backbone.conv1.weight) and not kernel[:, :, [0, 2]].any()


@pytest.mark.parametrize("damage", ["renamed", "truncated"])
def test_damaged_checkpoints_name_what_is_wrong(tmp_path, damage):
    tensors = dict(v2().state_dict())
    name = "backbone.transformer.resblocks.1.attn.in_proj_weight"
    value = tensors.pop(name)
    if damage == "renamed":
        tensors[name.replace("in_proj", "qkv")] = value
    torch.save(tensors, tmp_path / "x.pth")
    more = ".*1 unexpected .*qkv_weight" if damage == "renamed" else ""
    with pytest.raises(UserError, match=rf"x.pth does not match the model: 1 missing \({name}\){more}"):
        loaded(tmp_path / "x.pth", v2())


# --------------------------------------------------------------------------------------------- classes
NAMES = ["archery", "bowling", "crying", "diving", "eating"]


def with_names(model: nn.Module, names: list[str]) -> Weights:
    return Weights("x", dict(model.state_dict()), metadata={"class_names": names})


@pytest.mark.parametrize("build", [v2, lambda: UniformerLight(**V1, **PRUNING)], ids=["v2", "light"])
def test_classes_in_another_order_are_remapped_by_name(build):
    source, model = fill(build()), build()
    order = [3, 1, 4, 0, 2]
    report = load_weights(model, with_names(source, NAMES), class_names=[NAMES[i] for i in order])
    heads = [name for name in model.state_dict() if name.startswith(model.classifier)]
    assert report.remapped == heads and "remapped" in str(report)
    torch.testing.assert_close(model.eval()(CLIP), source.eval()(CLIP)[:, order])


def test_a_part_of_the_classes_is_taken_by_name():
    source, model = fill(v2()), v2(num_classes=2)
    load_weights(model, with_names(source, NAMES), class_names=["eating", "archery"])
    torch.testing.assert_close(model.eval()(CLIP), source.eval()(CLIP)[:, [4, 0]])


def test_names_that_only_look_different_are_the_same_classes():
    """A checkpoint whose first name was read with a byte order mark, and others with spaces."""
    source, model = fill(v2()), v2()
    names = [f"\ufeff{NAMES[0]}", *(f" {name}" for name in NAMES[1:])]
    assert not load_weights(model, with_names(source, names), class_names=NAMES).remapped
    torch.testing.assert_close(model.eval()(CLIP), source.eval()(CLIP))


def test_unknown_classes_are_refused():
    told = "k.pth: its class names differ .* it has no 'flying'.*label 4 is 'eating' there and 'flying' here.*map:FILE"
    with pytest.raises(UserError, match=told):
        load_weights(v2(), with_names(v2(), NAMES), class_names=[*NAMES[:4], "flying"], source="k.pth")


@pytest.mark.parametrize("kind", ["list", "json", "names"])
def test_maps_given_by_the_user(tmp_path, kind):
    source, model = fill(v2()), v2(num_classes=2)
    (tmp_path / "rows.json").write_text("[4, 0]")
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    spec = {"list": "[4,0]", "json": str(tmp_path / "rows.json"), "names": str(tmp_path / "names.txt")}[kind]
    ours = ["eating", "archery"] if kind == "names" else None
    load_weights(model, dict(source.state_dict()), init_head=f"map:{spec}", class_names=ours)
    torch.testing.assert_close(model.eval()(CLIP), source.eval()(CLIP)[:, [4, 0]])


@pytest.mark.parametrize("classes", [400, 600, 700])
def test_published_maps_from_kinetics_710(classes):
    source = v2(num_classes=710)
    head = source.backbone.transformer.proj[2]
    with torch.no_grad():
        head.bias.copy_(torch.arange(710))
    model = v2(num_classes=classes)
    load_weights(model, dict(source.state_dict()), init_head=f"map:k710_to_k{classes}")
    rows = model.backbone.transformer.proj[2].bias.long().tolist()
    assert len(set(rows)) == classes and rows[0] == 0
    first = {400: list(range(10)), 600: [0, 661, 611, 1, 694, 2, 3, 4, 637, 5]}
    assert rows[:10] == first.get(classes, rows[:10])


def test_the_released_order_of_kinetics_400_is_not_alphabetical():
    """Class "riding a bike" is row 0 there, and class 267 in alphabetical order; "abseiling" is class 0."""
    source = Uniformer(**V1 | {"num_classes": 400})
    with torch.no_grad():
        source.head.bias.copy_(torch.arange(400))
    model = Uniformer(**V1 | {"num_classes": 400})
    load_weights(model, dict(source.state_dict()), init_head="map:k400_uniformer_to_k400")
    rows = model.head.bias.long().tolist()
    assert sorted(rows) == list(range(400)) and rows.index(0) == 267


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", "map:nowhere: no such file or published map .*k710_to_k400"),
        ("[1, 'a'", "not a valid JSON list"),
        ('[1, "a"]', "must hold either row numbers"),
        ("[1, -2]", "must hold either row numbers"),
        ('["a", "b"]', "holds class names, but your data has none: set DATA.CLASS_NAMES"),
        ("[1, 9]", "takes row 9 of a classifier of 5 classes"),
        ("[1, 2, 3]", "has 3 classes, but MODEL.NUM_CLASSES is 2"),
    ],
)
def test_maps_that_cannot_be_used(spec, message):
    with pytest.raises(UserError, match=message):
        load_weights(v2(num_classes=2), dict(v2().state_dict()), init_head=f"map:{spec}")


# ------------------------------------------------------------------------------------------- conversion
@pytest.mark.parametrize("names", [openai, hugging_face, mmaction2, lambda model: model.state_dict()])
def test_a_converted_file_loads_as_the_original_does(tmp_path, names):
    source = fill(v2())
    content = {"model": names(source), "class_names": NAMES}
    torch.save(content, tmp_path / "x.pth")
    lines = convert(str(tmp_path / "x.pth"), str(tmp_path / "y.safetensors"))
    assert lines[0].startswith(f"{tmp_path / 'x.pth'}") and "tensors" in lines[1]
    (tmp_path / "other").touch()
    modes = {(tmp_path / name).stat().st_mode for name in ("other", "y.safetensors")}
    assert len(modes) == 1, "who may read other files may read it"
    original, converted = read_weights(str(tmp_path / "x.pth")), read_weights(str(tmp_path / "y.safetensors"))
    assert converted.tensors.keys() == original.tensors.keys()
    assert all(torch.equal(value, converted.tensors[name]) for name, value in original.tensors.items())
    assert (converted.image, converted.vit_variant) == (original.image, original.vit_variant)
    assert converted.class_names == NAMES
    models = [v2(), v2()]
    for model, weights in zip(models, (original, converted), strict=True):
        torch.manual_seed(0)
        model.reset_classifier(5)
        load_weights(model, weights, init_head="new" if weights.image else "keep")
    parts = [{n: v for n, v in m.state_dict().items() if n in original.tensors} for m in models]
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in original.tensors)


def test_converting_reports_and_refuses(tmp_path, command):
    torch.save(openai(v2()), tmp_path / "x.pth")
    status, shown, _ = command("convert", tmp_path / "x.pth", tmp_path / "y.safetensors")
    assert status == 0 and "CLIP (OpenAI)" in shown and "7 dropped (CLIP's text tower)" in shown
    assert "ACTIVATION: quick_gelu" in shown
    status, _, error = command("convert", tmp_path / "x.pth", tmp_path / "y.safetensors")
    assert status == 2 and "y.safetensors exists" in error
    assert command("convert", tmp_path / "x.pth", tmp_path / "y.pth")[0] == 2
    status, _, error = command("convert", tmp_path / "none.pth", tmp_path / "z.safetensors")
    assert status == 2 and "none.pth: no such file" in error and not (tmp_path / "z.safetensors").exists()
