"""Training and testing of UniFormer video classifiers.

From Python:

    from slowfast_uniformer import load_config, load_model, test, train

    cfg = load_config("k400/uniformer_s", ["OUTPUT_DIR", "runs/k400_s"])
    result = train(cfg)                          # {"output_dir": ..., "checkpoint": ..., "best_top1": ...}
    figures = test(cfg)                          # {"top1_acc": ..., "top5_acc": ..., ...}
    model = load_model(result["checkpoint"])
    print(model.predict("video.mp4"))

Names are imported at their first use: `import slowfast_uniformer` alone imports no other package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slowfast_uniformer.analysis.preview import preview
    from slowfast_uniformer.config.load import load_config
    from slowfast_uniformer.config.recipes import list_recipes
    from slowfast_uniformer.datasets.make_demo import make_demo
    from slowfast_uniformer.engine.job import test_run as test
    from slowfast_uniformer.engine.job import train_run as train
    from slowfast_uniformer.inference.explain import explain
    from slowfast_uniformer.inference.predictor import load_model
    from slowfast_uniformer.runs.folder import read_run

__version__ = "0.1.0"
__all__ = ["explain", "list_recipes", "load_config", "load_model", "make_demo", "preview", "read_run", "test", "train"]
_PLACES = {
    "explain": ("inference.explain", "explain"),
    "list_recipes": ("config.recipes", "list_recipes"),
    "load_config": ("config.load", "load_config"),
    "load_model": ("inference.predictor", "load_model"),
    "make_demo": ("datasets.make_demo", "make_demo"),
    "preview": ("analysis.preview", "preview"),
    "read_run": ("runs.folder", "read_run"),
    "test": ("engine.job", "test_run"),
    "train": ("engine.job", "train_run"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    module, function = _PLACES[name]
    return getattr(import_module(f"{__name__}.{module}"), function)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
