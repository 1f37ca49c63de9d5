"""Files of the public Keras conversion of UniFormerV2, written as its models write them.

tests/golden/keras has the weights' names and shapes, in order, that Keras 2.12's save_weights wrote of two small models
of that program, built one after the other, and the logits that they computed after load_weights of the files which
`write` makes.
"""

import re
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from golden_recipe import fill, golden_clip, golden_json
from torch import nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.uniformerv2 import Uniformerv2
from slowfast_uniformer.weights.convert import convert
from slowfast_uniformer.weights.files import read_tensors
from slowfast_uniformer.weights.load import load_weights, read_weights

h5py = pytest.importorskip("h5py")

SMALL = {
    "width": 32,
    "layers": 2,
    "heads": 4,
    "patch_size": 8,
    "input_resolution": 32,
    "num_classes": 5,
    "n_layers": 2,
    "n_dim": 32,
    "n_head": 4,
    "mlp_dropout": [0.0, 0.0],
    "return_list": [0, 1],
}
KINDS = {
    "sequential": {"temporal_downsample": True},  # as for Something-Something
    "frozen": {"temporal_downsample": False, "no_lmhra": True, "frozen": True},  # saved with `trainable = False`
}
CLIP = golden_clip((2, 3, 4, 32, 32))


def small(kind: str) -> Uniformerv2:
    return Uniformerv2(**SMALL | KINDS[kind]).eval()


# ------------------------------------------------------------------- this program's weights in the order of Keras's
def kernel(weight: torch.Tensor) -> torch.Tensor:
    """(out, in) to (in, out), (out, in, T, H, W) to (T, H, W, in, out)."""
    return weight.T if weight.ndim == 2 else weight.permute(2, 3, 4, 1, 0)


def linear(*modules: nn.Module) -> list[torch.Tensor]:
    return [value for module in modules for value in (kernel(module.weight), module.bias)]


def norm(*modules: nn.Module) -> list[torch.Tensor]:
    return [value for module in modules for value in (module.weight, module.bias)]


def statistics(module: nn.BatchNorm3d) -> list[torch.Tensor]:
    return [module.running_mean, module.running_var]


def block(module: nn.Module) -> list[torch.Tensor]:
    """Attention with its norm, MLP with its norm."""
    weights, biases = module.attn.in_proj_weight.split(32), module.attn.in_proj_bias.split(32)
    separate = [value for weight, bias in zip(weights, biases, strict=True) for value in (weight.T, bias)]
    mlp = linear(module.mlp.c_fc, module.mlp.c_proj)
    return [*separate, *linear(module.attn.out_proj), *norm(module.ln_1), *mlp, *norm(module.ln_2)]


def values(model: Uniformerv2, kind: str) -> Iterator[torch.Tensor]:
    vit, transformer = model.backbone, model.backbone.transformer
    yield from (kernel(vit.conv1.weight), vit.ln_pre.weight, vit.ln_pre.bias)
    if kind == "frozen":
        yield transformer.temporal_cls_token
    batch_norms = []
    for layer in transformer.resblocks:
        for local in (layer.lmhra1, layer.lmhra2) if kind == "sequential" else ():
            yield from norm(local.pos_embed[0])
            yield from linear(*local.pos_embed[1:])
            batch_norms.append(local.pos_embed[0])
        yield from block(layer)
    yield from linear(*transformer.dpe)
    for layer in transformer.dec:
        yield from [*block(layer), *norm(layer.ln_3)]
    yield from [*norm(transformer.proj[0]), *linear(transformer.proj[2])]
    if kind == "sequential":
        yield from (transformer.temporal_cls_token, transformer.balance)
    for batch_norm in batch_norms:  # not trainable, and so last
        yield from statistics(batch_norm)
    yield from (vit.class_embedding, vit.positional_embedding)


def write(path, model: Uniformerv2, kind: str, root: str = "", skip: str = "nothing", limit: int = 10**6) -> None:
    """A file of Keras 2's save_weights, or with `root` of save.

    Args:
        skip: pattern of weights to leave out.
        limit: names in an attribute, above which Keras splits it.
    """
    names: dict[str, list[str]] = {}
    with h5py.File(path, "w") as file:
        top = file.require_group(root) if root else file
        rows = golden_json("keras", kind)["weights"]
        for (layer, name, shape), value in zip(rows, values(model, kind), strict=True):
            array = value.detach().contiguous().numpy()
            assert array.shape == tuple(shape), name
            if not re.search(skip, name):
                top.require_group(layer).create_dataset(name, data=array)
                names.setdefault(layer, []).append(name)
        top.attrs["layer_names"] = np.array([name for name in names if name != "top_level_model_weights"], dtype="S")
        for layer, given in names.items():
            parts = [given[start : start + limit] for start in range(0, len(given), limit)]
            for index, part in enumerate(parts):
                key = "weight_names" if len(parts) == 1 else f"weight_names{index}"
                top[layer].attrs[key] = np.array(part, dtype="S")


def keras_eps(model: nn.Module) -> nn.Module:
    """The model with Keras's eps in its batch norms, which is not PyTorch's."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return model


# ------------------------------------------------------------------------------------------------------------- tests
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [{}, {"root": "model_weights"}, {"limit": 7}], ids=["weights", "model", "split"])
def test_a_model_computes_what_it_did_in_keras(tmp_path, kind, layout):
    source, model = keras_eps(fill(small(kind))), small(kind)
    write(tmp_path / "x.pth", source, kind, **layout)  # its content tells what it is
    weights = read_weights(str(tmp_path / "x.pth"))
    summary = load_weights(model, weights)
    assert summary.checkpoint_format == "UniFormerV2 (Keras)" and summary.fraction == 1
    assert not summary.missing and not summary.unexpected
    for name, value in source.state_dict().items():
        if name.endswith("running_var"):
            value = value + (1e-3 - 1e-5)
        assert torch.equal(weights.tensors[name], value), name
    with torch.no_grad():
        logits = model(CLIP)
        torch.testing.assert_close(logits, source(CLIP), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, torch.tensor(golden_json("keras", kind)["logits"]), rtol=0, atol=1e-5)


def test_it_converts_to_a_file_of_this_program(tmp_path, monkeypatch):
    write(tmp_path / "TFUniFormerV2_small.h5", fill(small("sequential")), "sequential")
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(tmp_path))
    lines = convert("TFUniFormerV2_small", str(tmp_path / "x.safetensors"))
    assert lines[0] == "TFUniFormerV2_small: UniFormerV2 (Keras)"
    converted, direct = (read_weights(str(tmp_path / name)) for name in ("x.safetensors", "TFUniFormerV2_small.h5"))
    assert converted.tensors.keys() == direct.tensors.keys() == small("sequential").state_dict().keys()
    assert all(torch.equal(value, direct.tensors[name]) for name, value in converted.tensors.items())
    assert not converted.image and not converted.vit_variant


@pytest.mark.parametrize(
    ("skip", "lacking"),
    [
        ("class_embedding", "lacking: class_embedding"),
        ("dense_4/bias", "lacking: TFTransformer/dense_4/bias"),
        ("moving_mean", r"lacking: TFTransformer/batch_normalization/moving_mean, .*, \.\.\."),
        (r"(layer_normalization_10|dense_24)/", "lacking: classifier"),
        ("conv3d_13/", r"lacking: position embedding for each global block \(1 for 2\)"),
        ("Extractor2.*dense_21/", "left over: TFTransformer/TFTransformer/TFExtractor2/.*; lacking: .*classifier"),
    ],
)
def test_what_is_lacking_is_named(tmp_path, skip, lacking):
    write(tmp_path / "x.h5", fill(small("sequential")), "sequential", skip=skip)
    with pytest.raises(UserError, match=rf"x.h5: Keras weights that are not a UniFormerV2's \({lacking}"):
        read_weights(str(tmp_path / "x.h5"))


def test_what_is_left_over_is_named(tmp_path):
    """A model with a layer after its logits, as that program's README shows, and one of another kind."""
    write(tmp_path / "x.h5", fill(small("sequential")), "sequential")
    added = {"dense_99": ["dense_99/kernel:0", "dense_99/bias:0"], "gru": ["gru/recurrent_kernel:0"]}
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file.attrs["layer_names"] = np.array([*file.attrs["layer_names"].astype(str), *added], dtype="S")
        for layer, names in added.items():
            file.create_group(layer).attrs["weight_names"] = np.array(names, dtype="S")
            for name in names:
                file[layer][name] = np.zeros(5 if "bias" in name else (5, 5), "float32")
    left = r"\(left over: gru/gru/recurrent_kernel:0, dense_99/dense_99/kernel, dense_99/dense_99/bias\)"
    with pytest.raises(UserError, match=rf"{left}\. What model.save_weights writes of"):
        read_weights(str(tmp_path / "x.h5"))


@pytest.mark.parametrize("damage", ["half", "no file", "another layout", "another file"])
def test_files_that_cannot_be_read(tmp_path, damage):
    path = tmp_path / "x.h5"
    write(path, fill(small("frozen")), "frozen")
    if damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "no file":
        path.write_bytes(b"<html>quota exceeded</html>")
    elif damage == "another layout":
        with h5py.File(path, "w") as file:  # as Keras 3 writes
            file["layers/dense/vars/0"] = np.zeros((2, 2), "float32")
    else:
        write(tmp_path / "secret.h5", fill(small("frozen")), "frozen")
        with h5py.File(path, "a") as file:
            del file["conv1"]["conv1/kernel:0"]
            file["conv1"]["conv1/kernel:0"] = h5py.ExternalLink("secret.h5", "conv1/conv1/kernel:0")
    message = {
        "half": "this HDF5 file cannot be read .*truncated.*download it again",
        "no file": "not a checkpoint, or damaged",
        "another layout": "no weight_names in this HDF5 file; write it with Keras 2's model.save_weights",
        "another file": "this HDF5 file cannot be read .*conv1/kernel:0 is in another file",
    }[damage]
    with pytest.raises(UserError, match=f"x.h5: {message}"):
        read_tensors(str(path))


def test_without_h5py_the_error_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "x.h5", fill(small("frozen")), "frozen")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        UserError, match=r"x.h5: reading a Keras file needs h5py: pip install 'slowfast_uniformer\[keras\]'"
    ):
        read_tensors(str(tmp_path / "x.h5"))
