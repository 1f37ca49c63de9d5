"""Models: tensors and keyword arguments in, tensors out."""

from slowfast_uniformer.models import uniformer  # noqa: F401  (registers its models)
from slowfast_uniformer.models.build import MODEL_REGISTRY, build_model

__all__ = ["MODEL_REGISTRY", "build_model"]
