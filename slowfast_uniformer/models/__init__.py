"""Architectures, and the registry that builds them from a config."""

from slowfast_uniformer.models import pytorchvideo, uniformer, uniformerv2  # noqa: F401  (they register their models)
from slowfast_uniformer.models.registry import MODEL_REGISTRY, VideoModel, build_model

__all__ = ["MODEL_REGISTRY", "VideoModel", "build_model"]
