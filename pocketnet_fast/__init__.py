"""Small face recognition networks, run fast.

The names below are loaded on first use, so that ``import pocketnet_fast`` costs little beyond torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketnet_fast.lazy import lazy_names

__version__ = "0.2.0"

_EXPORTS = {
    "pocketnet_fast.export.torchscript": ("export_torchscript",),
    "pocketnet_fast.faces.analyzer": ("FaceAnalyzer",),
    "pocketnet_fast.lowering.compiled": ("compile",),
    "pocketnet_fast.models.architectures": ("list_models",),
    "pocketnet_fast.models.loading": ("load_model",),
    "pocketnet_fast.models.registry": ("create_model",),
    "pocketnet_fast.models.weights": ("load_weights",),
    "pocketnet_fast.ops.native": ("compiled_isa", "trim_memory"),
}

if TYPE_CHECKING:
    from pocketnet_fast.export.torchscript import export_torchscript as export_torchscript
    from pocketnet_fast.faces.analyzer import FaceAnalyzer as FaceAnalyzer
    from pocketnet_fast.lowering.compiled import compile as compile
    from pocketnet_fast.models.architectures import list_models as list_models
    from pocketnet_fast.models.loading import load_model as load_model
    from pocketnet_fast.models.registry import create_model as create_model
    from pocketnet_fast.models.weights import load_weights as load_weights
    from pocketnet_fast.ops.native import compiled_isa as compiled_isa
    from pocketnet_fast.ops.native import trim_memory as trim_memory

__all__ = [
    "FaceAnalyzer",
    "__version__",
    "compile",
    "compiled_isa",
    "create_model",
    "export_torchscript",
    "list_models",
    "load_model",
    "load_weights",
    "trim_memory",
]


__getattr__, __dir__ = lazy_names(__name__, _EXPORTS)
