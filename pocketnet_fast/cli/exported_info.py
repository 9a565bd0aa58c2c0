"""What an exported file says of itself, which ``pocketnet info --weights`` prints; nothing of it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.thresholds import show_calibration
from pocketnet_fast.errors import PocketNetError


def exported_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata of a TorchScript file or AOTInductor package of this package; None of any other file."""
    if path.suffix not in (".pt", ".pt2") or not path.is_file():
        return None

    from pocketnet_fast.export.aotinductor import read_package_metadata
    from pocketnet_fast.export.torchscript_file import read_metadata

    read = read_metadata if path.suffix == ".pt" else read_package_metadata
    try:
        return read(path)
    except PocketNetError:
        return None


def print_exported(path: Path, metadata: dict[str, Any], as_json: bool) -> None:
    """Print them.

    Raises:
        PocketNetError: They do not describe a network.
    """
    from pocketnet_fast.models.calibration import Calibration

    if as_json:
        print_json(metadata)
        return
    try:
        stated = metadata["input"]
        shape = " x ".join(map(str, stated["shape"]))
        lines = [
            f"file: {metadata['format']}, by version {metadata['version']}",
            f"model: {metadata['model']}, embedding of {metadata['embedding_dim']}",
            f"input: {stated['dtype']} {shape}, {str(stated['color']).upper()}{_normalization(stated)}",
            f"output: {', '.join(map(str, metadata.get('outputs') or ['embeddings']))}",
            f"kernels: {metadata['kernels']}, {metadata['precision']}; needs {metadata['needs']}",
            f"weights: {metadata['weights_source'] or 'of no file'}, SHA-256 {metadata['weights_sha256']}",
        ]
        calibration = metadata.get("calibration")
    except (KeyError, TypeError):
        raise PocketNetError(f"{path}: damaged: its metadata do not describe a network") from None
    for line in lines:
        typer.echo(line)
    if calibration is not None:
        show_calibration(Calibration.from_json(json.dumps(calibration), str(path)))


def _normalization(stated: dict[str, Any]) -> str:
    applied = stated.get("normalization")
    if applied is None:
        return ""
    where = "in the network" if applied["applied_by"] != "caller" else "before it"
    return f", (x/255 - mean)/std with mean {applied['mean']} and std {applied['std']}, {where}"
