"""The public Keras conversion of UniFormerV2: which parameter each weight in its `.h5` files is.

Keras numbers layers through a whole session (`dense_4`, or `dense_431` in a later model) and writes scopes before only
some of their names. What is sure is the order of the weights, by which Keras itself loads such files. So the layers'
kinds are compared, in this order, with the structure of the model.
"""

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.weights.files import first_few

_TRANSFORMER = "backbone.transformer."
# Weights that have a name of their own -> this program's names
_NAMED = {
    "conv1/kernel": "backbone.conv1.weight",
    "ln_pre/gamma": "backbone.ln_pre.weight",
    "ln_pre/beta": "backbone.ln_pre.bias",
    "class_embedding": "backbone.class_embedding",
    "positional_embedding": "backbone.positional_embedding",
    "temporal_cls_token": f"{_TRANSFORMER}temporal_cls_token",
    "balance": f"{_TRANSFORMER}balance",
}
_OPTIONAL = ("balance",)  # models with a frozen ViT have none
# Kinds of numbered layers -> their weights in Keras -> in PyTorch
_LINEAR = {"kernel": "weight", "bias": "bias"}
_NORM = {"gamma": "weight", "beta": "bias"}
_KINDS = {
    "dense": _LINEAR,
    "conv3d": _LINEAR,
    "layer_normalization": _NORM,
    "batch_normalization": _NORM | {"moving_mean": "running_mean", "moving_variance": "running_var"},
}
# A letter for each layer, the first of its kind: the ViT's layers with up to two local blocks, then the global blocks'
# position embeddings, the global blocks, and the classifier with its norm
_STRUCTURE = re.compile(r"(?P<vit>(?:(?:bccc){0,2}ddddlddl)*)(?P<dpe>c*)(?P<dec>(?:ddddlddll)*)(?P<proj>(?:ld)?)")
_LOCAL_BLOCK = [f"pos_embed.{index}." for index in range(4)]
_VIT_LAYER = [*["attn.in_proj_"] * 3, "attn.out_proj.", "ln_1.", "mlp.c_fc.", "mlp.c_proj.", "ln_2."]
_GLOBAL_BLOCK = [*_VIT_LAYER, "ln_3."]
_EPS_DIFFERENCE = 1e-3 - 1e-5  # batch norm's eps in Keras, minus the one here


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a Keras file under this program's parameter names, in PyTorch's layout.

    The model computes what the Keras model did: the difference of the batch norms' eps is added to their variances.

    Args:
        tensors: by path in the file, in the file's order (see `files.read_tensors`).

    Raises:
        UserError: they are not a UniFormerV2's; names what is left over and what is lacking.
    """
    renamed: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)  # path of a numbered layer -> its weights by Keras's name
    left_over = []
    for name, value in tensors.items():
        path, _, weight = name.partition(":")[0].rpartition("/")
        own = next((own for end, own in _NAMED.items() if f"/{path}/{weight}".endswith(f"/{end}")), None)
        if own and own not in renamed:
            renamed[own] = _to_torch(weight, value)
        elif weight in _KINDS.get(_kind(path), ()):
            layers[path][weight] = value
        else:
            left_over.append(name)
    found = _STRUCTURE.match("".join(_kind(path)[0] for path in layers))
    left_over += [f"{path}/{weight}" for path in list(layers)[found.end() :] for weight in layers[path]]
    _check(left_over, [*_lacking(renamed, layers), *_lacking_parts(found)])
    parts = defaultdict(list)  # query, key and value have layers of their own in Keras
    for module, path in zip(_modules(found), layers, strict=True):
        kind = _KINDS[_kind(path)]
        for weight, value in layers[path].items():
            parts[module + kind[weight]].append(_to_torch(weight, value))
        if "moving_mean" in kind:
            parts[f"{module}num_batches_tracked"].append(torch.tensor(0))
    return renamed | {name: values[0] if len(values) == 1 else torch.cat(values) for name, values in parts.items()}


def _kind(path: str) -> str:
    """ "dense" of ".../dense_12"."""
    return re.sub(r"_\d+$", "", path.rpartition("/")[2])


def _to_torch(weight: str, value: Tensor) -> Tensor:
    """Kernels are (..., in, out) in Keras and (out, in, ...) in PyTorch."""
    if weight == "kernel" and value.ndim > 1:
        return value.movedim((-1, -2), (0, 1))
    return value + _EPS_DIFFERENCE if weight == "moving_variance" else value


def _lacking(renamed: Mapping[str, Tensor], layers: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    lacking = [end for end, own in _NAMED.items() if own not in renamed and end not in _OPTIONAL]
    for path, given in layers.items():
        lacking += [f"{path}/{weight}" for weight in _KINDS[_kind(path)] if weight not in given]
    return lacking


def _lacking_parts(found: re.Match) -> list[str]:
    names = {"vit": "layers of the ViT", "dec": "global blocks", "proj": "classifier"}
    lacking = [name for part, name in names.items() if not found[part]]
    blocks = len(found["dec"]) // len(_GLOBAL_BLOCK)
    if blocks != len(found["dpe"]):
        lacking.append(f"position embedding for each global block ({len(found['dpe'])} for {blocks})")
    return lacking


def _check(left_over: list[str], lacking: list[str]) -> None:
    faults = [f"left over: {first_few(left_over)}"] if left_over else []
    faults += [f"lacking: {first_few(lacking)}"] if lacking else []
    if faults:
        raise UserError(
            f"Keras weights that are not a UniFormerV2's ({'; '.join(faults)}). What model.save_weights writes of a "
            "model of the public Keras conversion can be read, without layers added to it"
        )


def _modules(found: re.Match) -> list[str]:
    """The prefix of the parameters' names for each numbered layer."""
    modules = []
    for index, layer in enumerate(re.finditer(r"((?:bccc)*)ddddlddl", found["vit"])):
        local = range(len(layer[1]) // len(_LOCAL_BLOCK))
        names = [f"lmhra{number + 1}.{name}" for number in local for name in _LOCAL_BLOCK] + _VIT_LAYER
        modules += [f"resblocks.{index}.{name}" for name in names]
    modules += [f"dpe.{index}." for index in range(len(found["dpe"]))]
    blocks = range(len(found["dec"]) // len(_GLOBAL_BLOCK))
    modules += [f"dec.{index}.{name}" for index in blocks for name in _GLOBAL_BLOCK]
    return [_TRANSFORMER + module for module in [*modules, "proj.0.", "proj.2."]]
