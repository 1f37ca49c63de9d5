"""Checkpoints of other programs in this program's names: each dialect is recognised by the names it uses.

`translate` renames, and says what it left out and why, and how the image ViT it came from computes.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from slowfast_uniformer.errors import UserError

_LAYER = r"backbone.transformer.resblocks.\1."
_OWN_HEAD = "the image model's own head and last norm"
_TEXT = "CLIP's text tower"
_POSITIONS = "relative position bias, which this model lacks: its attention differs from the image model's"


@dataclass
class ConvertedWeights:
    """Tensors under this program's names.

    `dropped`: name there -> why it was left out. `arithmetic`: keys of UNIFORMERV2 -> what the image ViT
    needs. `image`: the weights are an image model's, so that what only video models have is not missing.
    """

    dialect: str
    tensors: dict[str, Tensor]
    dropped: dict[str, str] = field(default_factory=dict)
    arithmetic: dict[str, Any] = field(default_factory=dict)
    image: bool = False


def convert_format(tensors: Mapping[str, Tensor], hints: Mapping[str, Any] | None = None) -> ConvertedWeights:
    """Recognise the dialect of a checkpoint's names and give its tensors this program's.

    `hints` may hold `hidden_act`, from the configuration file beside a Hugging Face checkpoint. Names of no
    known dialect are kept as they are. Raises UserError for image models whose layers are none of
    UniFormerV2's, naming what they have besides.
    """
    for name, mark, reader in _DIALECTS:
        if any(re.search(mark, key) for key in tensors):
            found = reader(dict(tensors), hints or {})
            found.dialect = found.dialect or name
            return found
    return ConvertedWeights("names of this program and the releases", dict(tensors))


def _rename(tensors: dict[str, Tensor], rules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Rename by the first rule (pattern of the whole name, replacement) that fits, if one does."""

    def new(name: str) -> str:
        for pattern, replacement in rules:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        return name

    return {new(name): value for name, value in tensors.items()}


def _drop(tensors: dict[str, Tensor], reasons: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Take out of `tensors` what fits a (pattern, reason); returns what went, and why."""
    dropped = {}
    for pattern, reason in reasons:
        for name in [name for name in tensors if re.fullmatch(pattern, name)]:
            del tensors[name]
            dropped[name] = reason
    return dropped


def _refuse(tensors: Mapping[str, Tensor], kinds: Iterable[tuple[str, str]]) -> None:
    for pattern, what in kinds:
        for name in tensors:
            if re.search(pattern, name):
                raise UserError(
                    f"an image model with {what} ({name}): UniFormerV2's layers have none; take one without"
                )


# ------------------------------------------------------------------------------------------------ mmaction2
_MMACTION = (
    (r"cls_head\.fc_cls\.(weight|bias)", r"{head}.\1"),
    (r"backbone\.transformer\.norm\.(weight|bias)", r"backbone.transformer.proj.0.\1"),
)


def _mmaction2(tensors: dict[str, Tensor], hints: Mapping) -> ConvertedWeights:
    v2 = any(name.startswith("backbone.transformer.") for name in tensors)
    dropped = _drop(tensors, [(r"data_preprocessor\..*", "constants of another program's data loading")])
    head = "backbone.transformer.proj.2" if v2 else "head"
    rules = [(pattern, new.format(head=head)) for pattern, new in _MMACTION]
    if not v2:
        rules.append((r"backbone\.(.*)", r"\1"))
    return ConvertedWeights("", _rename(tensors, rules), dropped)


# ------------------------------------------------------------------------------------------------- CLIP
_TOWER = (
    (r"(class_embedding|positional_embedding|conv1\.weight|ln_pre\..*)", r"backbone.\1"),
    (r"transformer\.resblocks\.(\d+)\.ls_([12])\.gamma", rf"{_LAYER}ls_\2"),
    (r"(transformer\.resblocks\..*)", r"backbone.\1"),
)


def _clip(tensors: dict[str, Tensor], hints: Mapping) -> ConvertedWeights:
    """OpenAI's and open_clip's checkpoints, and the visual tower alone as the releases extract it.

    OpenAI's hold their sizes as tensors, and compute QuickGELU; open_clip's hold none, and compute GELU but
    for models it calls "quickgelu", which names cannot tell (set UNIFORMERV2.ACTIVATION).
    """
    whole = any(name.startswith("visual.") for name in tensors)
    openai = not whole or "input_resolution" in tensors
    _refuse(tensors, [(r"^(visual\.)?layer1\.", "convolutions instead of layers, a ResNet")])
    dropped = _drop(tensors, [(r"(?!visual\.).*", _TEXT)] if whole else ())
    tensors = {name.removeprefix("visual."): value for name, value in tensors.items()}
    dropped |= _drop(tensors, [(r"proj|ln_post\..*|attn_pool\..*", _OWN_HEAD)])
    arithmetic = {
        "ACTIVATION": "quick_gelu" if openai else "gelu",
        "LAYER_SCALE": any(".ls_1." in name for name in tensors),
        "LN_PRE": "ln_pre.weight" in tensors,
        "NORM_EPS": 1e-5,
    }
    name = "CLIP (OpenAI)" if openai else "CLIP (open_clip)"
    return ConvertedWeights(name, _rename(tensors, _TOWER), dropped, arithmetic, image=True)


_HUGGING_FACE = (
    (r"embeddings\.class_embedding", "backbone.class_embedding"),
    (r"embeddings\.patch_embedding\.weight", "backbone.conv1.weight"),
    (r"embeddings\.position_embedding\.weight", "backbone.positional_embedding"),
    (r"pre_layrnorm\.(weight|bias)", r"backbone.ln_pre.\1"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(weight|bias)", rf"{_LAYER}ln_\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.in_proj_(weight|bias)", rf"{_LAYER}attn.in_proj_\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)", rf"{_LAYER}attn.out_proj.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.(weight|bias)", rf"{_LAYER}mlp.c_fc.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.(weight|bias)", rf"{_LAYER}mlp.c_proj.\2"),
)


def _hugging_face(tensors: dict[str, Tensor], hints: Mapping) -> ConvertedWeights:
    dropped = _drop(tensors, [(r".*position_ids", "a list of numbers"), (r"visual_projection\..*", _OWN_HEAD)])
    dropped |= _drop(tensors, [(r"(?!vision_model\.).*", _TEXT)])
    tensors = {name.removeprefix("vision_model."): value for name, value in tensors.items()}
    dropped |= _drop(tensors, [(r"post_layernorm\..*", _OWN_HEAD)])
    for first in [name for name in tensors if ".self_attn.q_proj." in name]:
        parts = [first.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
        if all(part in tensors for part in parts):
            joined = torch.cat([tensors.pop(part) for part in parts])
            tensors[first.replace("q_proj.", "in_proj_")] = joined
    activation = hints.get("hidden_act", "quick_gelu")
    arithmetic = {"ACTIVATION": activation, "LAYER_SCALE": False, "LN_PRE": True, "NORM_EPS": 1e-5}
    return ConvertedWeights("", _rename(tensors, _HUGGING_FACE), dropped, arithmetic, image=True)


# ------------------------------------------------------------------------------------------------- timm
_TIMM = (
    (r"patch_embed\.proj\.weight", "backbone.conv1.weight"),
    (r"norm_pre\.(weight|bias)", r"backbone.ln_pre.\1"),
    (r"blocks\.(\d+)\.norm([12])\.(weight|bias)", rf"{_LAYER}ln_\2.\3"),
    (r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", rf"{_LAYER}attn.in_proj_\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", rf"{_LAYER}attn.out_proj.\2"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", rf"{_LAYER}mlp.c_fc.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", rf"{_LAYER}mlp.c_proj.\2"),
    (r"blocks\.(\d+)\.ls([12])\.gamma", rf"{_LAYER}ls_\2"),
    (r"blocks\.(\d+)\.gamma_([12])", rf"{_LAYER}ls_\2"),
)
_NOT_CARRIED = (
    (r"\.mlp\.(w12|w3|fc1_[gx])\.", "gated MLPs"),
    (r"\.attn\.[qk]_norm\.", "normalized queries"),
    (r"^(reg_token|register_tokens|dist_token)", "more tokens than a class token"),
    (r"^rope|\.rope\.", "rotary position embedding"),
)


def _timm(tensors: dict[str, Tensor], hints: Mapping) -> ConvertedWeights:
    """timm's ViTs and the original DeiT, DINO, DINOv2, MAE and BEiT files, whose names they are.

    The patch embedding's bias goes into the position embedding, which is added to the same tokens; a missing
    bias of keys (BEiT) and a missing position embedding are zeros. BEiT's relative position bias is lost.
    """
    for prefix in ("visual.trunk.", "backbone.", "encoder."):
        if f"{prefix}patch_embed.proj.weight" in tensors:
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    _refuse(tensors, _NOT_CARRIED)
    positions = r".*relative_position_index|(.*\.)?(rel_pos_bias\.)?relative_position_bias_table"
    own = r"(norm|fc_norm|head|head_dist|pre_logits|last_layer|lm_head|fc|attn_pool|visual\.head)\..*"
    training = r"(decoder_.*|mask_token|decoder_pos_embed)"
    dropped = _drop(tensors, [(positions, _POSITIONS), (own, _OWN_HEAD), (training, "for pre-training only")])
    dropped |= _drop(tensors, [(r"(text|transformer)\..*|logit_.*|positional_embedding|text_.*|token_.*", _TEXT)])
    _join_biases(tensors)
    arithmetic = {
        "ACTIVATION": "gelu",
        "LAYER_SCALE": any(re.search(r"\.(ls1\.gamma|gamma_1)$", name) for name in tensors),
        "LN_PRE": "norm_pre.weight" in tensors,
        "NORM_EPS": 1e-5 if "norm_pre.weight" in tensors else 1e-6,
    }
    cls = tensors.pop("cls_token").flatten()
    positions = _position_embedding(tensors, cls)
    renamed = {"backbone.class_embedding": cls, "backbone.positional_embedding": positions}
    return ConvertedWeights("", renamed | _rename(tensors, _TIMM), dropped, arithmetic, image=True)


def _join_biases(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.endswith(".attn.q_bias")]:
        q, v = tensors.pop(name), tensors.pop(name.replace("q_bias", "v_bias"))
        tensors.pop(name.replace("q_bias", "k_bias"), None)  # a buffer of zeros in timm
        tensors[name.replace("q_bias", "qkv.bias")] = torch.cat((q, torch.zeros_like(q), v))


def _position_embedding(tensors: dict[str, Tensor], cls: Tensor) -> Tensor:
    """(1 + N, dim), the class token's first, zeros where there is none, and the patches' bias on the rest."""
    given = tensors.pop("pos_embed", torch.zeros(1, 2, len(cls)))[0].float()
    if math.isqrt(len(given)) ** 2 == len(given):  # DeiT III adds none to the class token
        given = torch.cat((torch.zeros_like(given[:1]), given))
    bias = tensors.pop("patch_embed.proj.bias", torch.zeros(len(cls))).float()
    return torch.cat((given[:1], given[1:] + bias))


# name, what in a name tells the dialect, reader; the first that fits
_DIALECTS: tuple[tuple[str, str, Callable[[dict[str, Tensor], Mapping], ConvertedWeights]], ...] = (
    ("mmaction2", r"^cls_head\.fc_cls\.|^backbone\.(patch_embed1|transformer\.norm)\.", _mmaction2),
    ("CLIP (Hugging Face)", r"^vision_model\.encoder\.layers\.", _hugging_face),
    ("timm ViT", r"^(visual\.trunk\.|backbone\.|encoder\.)?patch_embed\.proj\.weight$", _timm),
    ("", r"^(visual\.)?(class_embedding$|ln_pre\.|layer1\.)", _clip),
)
