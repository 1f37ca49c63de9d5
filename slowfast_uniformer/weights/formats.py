"""Checkpoint formats of other programs: recognised by their parameter names, and renamed to this program's."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.weights import keras

_LAYER = r"backbone.transformer.resblocks.\1."
_OWN_HEAD = "the image model's own head and last norm"
_TEXT = "CLIP's text tower"
_POSITIONS = "relative position bias, which this model lacks: its attention differs from the image model's"
Rules = Iterable[tuple[str, str]]  # (regular expression, what it stands for)


@dataclass
class Weights:
    """The tensors of a checkpoint under this program's parameter names.

    Attributes:
        checkpoint_format: the other program that the names are of; "" for this one and the releases.
        tensors: name -> tensor on the CPU.
        dropped: name in the file -> why it was left out.
        vit_variant: keys of UNIFORMERV2 (ACTIVATION, LAYER_SCALE, LN_PRE, NORM_EPS) -> what the image ViT has.
        image: the weights are an image model's, so that what only video models have is not missing.
        metadata: other values in the file (see `files.METADATA_KEYS`).
    """

    checkpoint_format: str
    tensors: dict[str, Tensor]
    dropped: dict[str, str] = field(default_factory=dict)
    vit_variant: dict[str, Any] = field(default_factory=dict)
    image: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str] | None:
        return self.metadata.get("class_names")


def convert_format(tensors: Mapping[str, Tensor], hints: Mapping[str, Any] | None = None) -> Weights:
    """Recognise a checkpoint's format and rename its tensors; names of no known format are kept.

    Args:
        tensors: the checkpoint's tensors by name.
        hints: may hold `hidden_act`, from the config.json beside a Hugging Face checkpoint.

    Raises:
        UserError: an image model with layers that UniFormerV2 does not have, which are named.
    """
    for marker, convert in _FORMATS:
        if any(re.search(marker, name) for name in tensors):
            return convert(dict(tensors), hints or {})
    return Weights("", dict(tensors))


def _rename(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Rename each tensor by the first rule (pattern of the whole name, replacement) that matches, if one does."""
    renamed = {}
    for name, value in tensors.items():
        rule = next((rule for rule in rules if re.fullmatch(rule[0], name)), None)
        renamed[re.sub(*rule, name) if rule else name] = value
    return renamed


def _drop(tensors: dict[str, Tensor], reasons: Rules) -> dict[str, str]:
    """Remove what matches a (pattern, reason) from `tensors`. Returns name -> reason of the removed ones."""
    dropped = {}
    for pattern, reason in reasons:
        for name in [name for name in tensors if re.fullmatch(pattern, name)]:
            del tensors[name]
            dropped[name] = reason
    return dropped


def _refuse(tensors: Mapping[str, Tensor], kinds: Rules) -> None:
    for pattern, what in kinds:
        if found := next((name for name in tensors if re.search(pattern, name)), None):
            raise UserError(f"an image model with {what} ({found}): UniFormerV2's layers have none; take one without")


# ------------------------------------------------------------------------------------------------ mmaction2
_MMACTION_V1 = ((r"cls_head\.fc_cls\.(weight|bias)", r"head.\1"), (r"backbone\.(.*)", r"\1"))
_MMACTION_V2 = (
    (r"cls_head\.fc_cls\.(weight|bias)", r"backbone.transformer.proj.2.\1"),
    (r"backbone\.transformer\.norm\.(weight|bias)", r"backbone.transformer.proj.0.\1"),
)


def _mmaction2(tensors: dict[str, Tensor], hints: Mapping) -> Weights:
    dropped = _drop(tensors, [(r"data_preprocessor\..*", "constants of another program's data loading")])
    v2 = any(name.startswith("backbone.transformer.") for name in tensors)
    return Weights("mmaction2", _rename(tensors, _MMACTION_V2 if v2 else _MMACTION_V1), dropped)


# ------------------------------------------------------------------------------------------------- CLIP
_CLIP = (
    (r"(class_embedding|positional_embedding|conv1\.weight|ln_pre\..*)", r"backbone.\1"),
    (r"transformer\.resblocks\.(\d+)\.ls_([12])\.gamma", rf"{_LAYER}ls_\2"),
    (r"(transformer\.resblocks\..*)", r"backbone.\1"),
)


def _clip(tensors: dict[str, Tensor], hints: Mapping) -> Weights:
    """OpenAI's and open_clip's checkpoints, and the visual tower alone as the releases extract it.

    OpenAI's hold their sizes as tensors, and compute QuickGELU; open_clip's hold none, and compute GELU except for
    models with "quickgelu" in their model name, which parameter names do not show (set UNIFORMERV2.ACTIVATION).
    """
    both_towers = any(name.startswith("visual.") for name in tensors)
    openai = not both_towers or "input_resolution" in tensors
    _refuse(tensors, [(r"^(visual\.)?layer1\.", "convolutions instead of layers, a ResNet")])
    dropped = _drop(tensors, [(r"(?!visual\.).*", _TEXT)] if both_towers else ())
    tensors = {name.removeprefix("visual."): value for name, value in tensors.items()}
    dropped |= _drop(tensors, [(r"proj|ln_post\..*|attn_pool\..*", _OWN_HEAD)])
    vit_variant = {
        "ACTIVATION": "quick_gelu" if openai else "gelu",
        "LAYER_SCALE": any(".ls_1." in name for name in tensors),
        "LN_PRE": "ln_pre.weight" in tensors,
        "NORM_EPS": 1e-5,
    }
    name = "CLIP (OpenAI)" if openai else "CLIP (open_clip)"
    return Weights(name, _rename(tensors, _CLIP), dropped, vit_variant, image=True)


_BLOCK = r"(?:encoder\.layers|blocks)\.(\d+)\."
# Hugging Face's CLIP and timm's ViTs
_VIT = (
    (r"embeddings\.class_embedding", "backbone.class_embedding"),
    (r"embeddings\.position_embedding\.weight", "backbone.positional_embedding"),
    (r"(?:embeddings\.patch_embedding|patch_embed\.proj)\.weight", "backbone.conv1.weight"),
    (r"(?:pre_layrnorm|norm_pre)\.(weight|bias)", r"backbone.ln_pre.\1"),
    (rf"{_BLOCK}(?:layer_)?norm([12])\.(weight|bias)", rf"{_LAYER}ln_\2.\3"),
    (rf"{_BLOCK}(?:self_attn\.in_proj_|attn\.qkv\.)(weight|bias)", rf"{_LAYER}attn.in_proj_\2"),
    (rf"{_BLOCK}(?:self_attn\.out_proj|attn\.proj)\.(weight|bias)", rf"{_LAYER}attn.out_proj.\2"),
    (rf"{_BLOCK}mlp\.fc1\.(weight|bias)", rf"{_LAYER}mlp.c_fc.\2"),
    (rf"{_BLOCK}mlp\.fc2\.(weight|bias)", rf"{_LAYER}mlp.c_proj.\2"),
    (rf"{_BLOCK}(?:ls([12])\.gamma|gamma_([12]))", rf"{_LAYER}ls_\2\3"),
)


def _hugging_face(tensors: dict[str, Tensor], hints: Mapping) -> Weights:
    dropped = _drop(tensors, [(r".*position_ids", "a list of numbers"), (r"visual_projection\..*", _OWN_HEAD)])
    dropped |= _drop(tensors, [(r"(?!vision_model\.).*", _TEXT)])
    tensors = {name.removeprefix("vision_model."): value for name, value in tensors.items()}
    dropped |= _drop(tensors, [(r"post_layernorm\..*", _OWN_HEAD)])
    for query in [name for name in tensors if ".self_attn.q_proj." in name]:
        parts = [query.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
        if all(part in tensors for part in parts):
            tensors[query.replace("q_proj.", "in_proj_")] = torch.cat([tensors.pop(part) for part in parts])
    activation = hints.get("hidden_act", "quick_gelu")
    vit_variant = {"ACTIVATION": activation, "LAYER_SCALE": False, "LN_PRE": True, "NORM_EPS": 1e-5}
    return Weights("CLIP (Hugging Face)", _rename(tensors, _VIT), dropped, vit_variant, image=True)


# ------------------------------------------------------------------------------------------------- timm
_UNSUPPORTED = (
    (r"\.mlp\.(w12|w3|fc1_[gx])\.", "gated MLPs"),
    (r"\.attn\.[qk]_norm\.", "normalized queries"),
    (r"^(reg_token|register_tokens|dist_token)", "more tokens than a class token"),
    (r"^rope|\.rope\.", "rotary position embedding"),
)
_TIMM_DROPPED = (
    (r".*relative_position_index|(.*\.)?(rel_pos_bias\.)?relative_position_bias_table", _POSITIONS),
    (r"(norm|fc_norm|head|head_dist|pre_logits|last_layer|lm_head|fc|attn_pool|visual\.head)\..*", _OWN_HEAD),
    (r"(decoder_.*|mask_token|decoder_pos_embed)", "for pre-training only"),
    (r"(text|transformer)\..*|logit_.*|positional_embedding|text_.*|token_.*", _TEXT),
)


def _timm(tensors: dict[str, Tensor], hints: Mapping) -> Weights:
    """timm's ViTs and the original DeiT, DINO, DINOv2, MAE and BEiT files, which have the same names.

    The patch embedding's bias is added to the position embedding, which goes to the same tokens; a missing bias of keys
    (BEiT) and a missing position embedding are zeros. BEiT's relative position bias is lost.
    """
    for prefix in ("visual.trunk.", "backbone.", "encoder."):
        if f"{prefix}patch_embed.proj.weight" in tensors:
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    _refuse(tensors, _UNSUPPORTED)
    dropped = _drop(tensors, _TIMM_DROPPED)
    for query in [name for name in tensors if name.endswith(".attn.q_bias")]:
        q, v = tensors.pop(query), tensors.pop(query.replace("q_bias", "v_bias"))
        tensors.pop(query.replace("q_bias", "k_bias"), None)  # a buffer of zeros in timm
        tensors[query.replace("q_bias", "qkv.bias")] = torch.cat((q, torch.zeros_like(q), v))
    ln_pre = "norm_pre.weight" in tensors
    vit_variant = {
        "ACTIVATION": "gelu",
        "LAYER_SCALE": any(re.search(r"\.(ls1\.gamma|gamma_1)$", name) for name in tensors),
        "LN_PRE": ln_pre,
        "NORM_EPS": 1e-5 if ln_pre else 1e-6,
    }
    cls = tensors.pop("cls_token").flatten()
    embeddings = {"backbone.class_embedding": cls, "backbone.positional_embedding": _position_embedding(tensors, cls)}
    return Weights("timm ViT", embeddings | _rename(tensors, _VIT), dropped, vit_variant, image=True)


def _position_embedding(tensors: dict[str, Tensor], cls: Tensor) -> Tensor:
    """(1 + N, dim): the class token's first, zeros where there is none; the patch embedding's bias on the others."""
    given = tensors.pop("pos_embed", torch.zeros(1, 2, len(cls)))[0].float()
    if math.isqrt(len(given)) ** 2 == len(given):  # DeiT III adds none to the class token
        given = torch.cat((torch.zeros_like(given[:1]), given))
    bias = tensors.pop("patch_embed.proj.bias", torch.zeros(len(cls))).float()
    return torch.cat((given[:1], given[1:] + bias))


# ------------------------------------------------------------------------------------------------- Keras
def _keras(tensors: dict[str, Tensor], hints: Mapping) -> Weights:
    return Weights("UniFormerV2 (Keras)", keras.rename(tensors))


# what in a parameter name shows the format, converter; the first that matches
_FORMATS: tuple[tuple[str, Callable[[dict[str, Tensor], Mapping], Weights]], ...] = (
    (r"/kernel:\d+$", _keras),
    (r"^cls_head\.fc_cls\.|^backbone\.(patch_embed1|transformer\.norm)\.", _mmaction2),
    (r"^vision_model\.encoder\.layers\.", _hugging_face),
    (r"^(visual\.trunk\.|backbone\.|encoder\.)?patch_embed\.proj\.weight$", _timm),
    (r"^(visual\.)?(class_embedding$|ln_pre\.|layer1\.)", _clip),
)
