"""Training and testing of UniFormer video classifiers."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    if name == "load_model":  # at its first use, for it imports everything
        from slowfast_uniformer.inference.predictor import load_model

        return load_model
    raise AttributeError(f"module {__name__} has no attribute {name}")
