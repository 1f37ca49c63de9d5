"""Models: tensors and keyword arguments in, tensors out."""

from slowfast_uniformer.models import ptv, uniformer, uniformerv2  # noqa: F401  (they register their models)
from slowfast_uniformer.models.build import MODEL_REGISTRY, build_model

__all__ = ["MODEL_REGISTRY", "build_model"]
