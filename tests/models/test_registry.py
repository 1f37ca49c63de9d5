"""Building models by name, and users' models."""

import subprocess
import sys

import pytest
from small_models import CLASSES, small_cfg
from torch import nn

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import MODEL_REGISTRY, build_model


def test_an_unknown_model_names_the_nearest_and_all():
    with pytest.raises(
        UserError, match=r"no model uniformer_lihgt; the nearest is Uniformer_light. There are .*Uniformer,"
    ):
        build_model(small_cfg(MODEL_NAME="uniformer_lihgt"))


def test_users_register_models_of_their_own(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "from slowfast_uniformer.models import MODEL_REGISTRY\n"
        "@MODEL_REGISTRY.register()\n"
        "def Mine(cfg):\n"
        "    model = nn.Linear(2, cfg.MODEL.NUM_CLASSES)\n"
        "    model.classifier = ('',)\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    monkeypatch.setattr(MODEL_REGISTRY, "_obj_map", dict(MODEL_REGISTRY))
    model = build_model(small_cfg(MODEL_NAME="Mine", IMPORT="my_models"))
    assert isinstance(model, nn.Linear) and model.out_features == CLASSES
    with pytest.raises(UserError, match="MODEL.IMPORT: cannot import not_there"):
        build_model(small_cfg(IMPORT="not_there"))


def test_builders_get_the_vit_variant_if_they_take_it(monkeypatch):
    monkeypatch.setattr(MODEL_REGISTRY, "_obj_map", dict(MODEL_REGISTRY))
    calls = []

    @MODEL_REGISTRY.register()
    def Takes(cfg, vit_variant=None):
        calls.append(vit_variant)
        return build_model(small_cfg())

    build_model(small_cfg(MODEL_NAME="Takes"), {"ACTIVATION": "gelu"})
    build_model(small_cfg(MODEL_NAME="Takes"))
    assert calls == [{"ACTIVATION": "gelu"}, None]
    assert not hasattr(build_model(small_cfg("Uniformer"), {"ACTIVATION": "gelu"}), "vit_variant")


def test_the_vit_variant_fills_keys_that_are_auto_and_leaves_the_config():
    cfg = small_cfg("Uniformerv2")
    cfg.UNIFORMERV2 = cfg.UNIFORMERV2.clone()
    cfg.UNIFORMERV2.ACTIVATION = cfg.UNIFORMERV2.NORM_EPS = "auto"
    cfg.freeze()
    variant = {"ACTIVATION": "gelu", "LAYER_SCALE": True}
    expected = {"ACTIVATION": "gelu", "LAYER_SCALE": False, "LN_PRE": True, "NORM_EPS": 1e-5}
    assert build_model(cfg, variant).vit_variant == expected
    assert build_model(cfg).vit_variant == expected | {"ACTIVATION": "quick_gelu"}
    assert cfg.UNIFORMERV2.ACTIVATION == "auto"


def test_importing_the_models_imports_nothing_heavy():
    heavy = ["torchvision", "pytorchvideo", "timm", "torch._dynamo", "torch._inductor", "sympy"]
    code = f"import sys, slowfast_uniformer.models; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
