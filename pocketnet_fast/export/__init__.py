"""Models as files that other programs load.

The names below are loaded on first use.
"""

from typing import TYPE_CHECKING

from pocketnet_fast.lazy import lazy_names

if TYPE_CHECKING:
    from pocketnet_fast.export.aotinductor import export_aotinductor as export_aotinductor
    from pocketnet_fast.export.aotinductor import load_package as load_package
    from pocketnet_fast.export.exported import load_exported as load_exported
    from pocketnet_fast.export.library_file import export_library_file as export_library_file
    from pocketnet_fast.export.onnx import export_onnx as export_onnx
    from pocketnet_fast.export.torchscript import export_torchscript as export_torchscript
    from pocketnet_fast.export.triton import export_triton as export_triton

_NAMES = {
    "pocketnet_fast.export.aotinductor": ("export_aotinductor", "load_package"),
    "pocketnet_fast.export.exported": ("load_exported",),
    "pocketnet_fast.export.library_file": ("export_library_file",),
    "pocketnet_fast.export.onnx": ("export_onnx",),
    "pocketnet_fast.export.torchscript": ("export_torchscript",),
    "pocketnet_fast.export.triton": ("export_triton",),
}

__all__ = [
    "export_aotinductor",
    "export_library_file",
    "export_onnx",
    "export_torchscript",
    "export_triton",
    "load_exported",
    "load_package",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
