"""The bill of materials of a wheel: CycloneDX, from the files that are really in it.

``python release/sbom.py WHEEL`` puts ``sboms/pocketnet_fast.cdx.json`` into the wheel's dist-info and prints
its path. Every file of the wheel belongs to one of the parts that are known here, or the wheel is refused:
what is new in a wheel is to be declared, with its licence, and in NOTICE.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent))
from wheel import contents, dist_info, with_files

NAME: Final = "pocketnet_fast"
BILL: Final = f"{NAME}.cdx.json"
_ISSUES: Final = uuid.UUID("b5a1f6e2-6c0b-4a53-9b55-0f2a3c7d9e11")
_OWN: Final = "Apache-2.0"


@dataclass(frozen=True)
class Part:
    """Something in a wheel with an origin and a licence of its own.

    Attributes:
        name: As the bill calls it.
        kind: CycloneDX's type of component.
        files: What of the wheel it is, as a pattern of paths.
        licence: An SPDX expression.
        about: A sentence.
        origin: Where it comes from, as an address, if from elsewhere.
        made_of: Names of parts that are compiled into it, or that it learned from.
    """

    name: str
    kind: str
    files: str
    licence: str
    about: str
    origin: str = ""
    made_of: tuple[str, ...] = ()


# From the special to the general: the first pattern that fits a file says whose it is.
PARTS: Final = (
    Part(
        "libpnf_ops",
        "library",
        r"pocketnet_fast/lib/libpnf_ops\.so",
        _OWN,
        "Kernels, operators on LibTorch's stable ABI, and what Python calls by ctypes.",
        made_of=("pytorch-headers",),
    ),
    Part(
        "libpocketnet",
        "library",
        r"pocketnet_fast/(lib/libpocketnet\.so\.1|include/.*|lib/cmake/pocketnet/.*)",
        _OWN,
        "The same networks behind a C header, without torch and Python.",
    ),
    Part(
        "pocketnet_s128-weights",
        "machine-learning-model",
        r"pocketnet_fast/models/pretrained/pocketnet_s128\.safetensors",
        _OWN,
        "PocketNetS-128, distilled on unlabelled face crops (docs/models/pocketnet_s128.md).",
        made_of=("mobilefacenet-teacher",),
    ),
    Part(
        "pocketnet_m128-weights",
        "machine-learning-model",
        r"pocketnet_fast/models/pretrained/pocketnet_m128\.safetensors",
        _OWN,
        "PocketNetM-128, distilled on unlabelled face crops (docs/models/pocketnet_m128.md).",
        made_of=("mobilefacenet-teacher",),
    ),
    Part(
        "yunet-weights",
        "machine-learning-model",
        r"pocketnet_fast/models/pretrained/yunet(\.safetensors|_LICENSE\.txt)",
        "MIT",
        "The face detector YuNet, face_detection_yunet_2023mar.onnx, converted; its numbers are unchanged.",
        "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet",
    ),
    Part(
        NAME,
        "library",
        r"pocketnet_fast/.*|pocketnet_fast-[^/]*\.dist-info/.*",
        _OWN,
        "The package in Python, its recipes and CMake configuration.",
    ),
)

# In no file of its own.
INGREDIENTS: Final = (
    Part(
        "pytorch-headers",
        "library",
        "",
        "BSD-3-Clause",
        "Headers of LibTorch's stable ABI, whose inline functions are compiled into libpnf_ops.",
        "https://github.com/pytorch/pytorch",
    ),
    Part(
        "mobilefacenet-teacher",
        "machine-learning-model",
        "",
        "LicenseRef-unstated",
        "A MobileFaceNet trained on a refined MS-Celeb-1M, whose answers the weights were fitted to, and "
        "whose last layers they began with. The data were distributed for research, and have been withdrawn "
        "by their publisher.",
    ),
)


def owner_of(path: str) -> Part | None:
    """The part that a file of a wheel belongs to; None if it is not known."""
    return next((part for part in PARTS if re.fullmatch(part.files, path)), None)


def bill(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The bill of materials of a wheel's files.

    Raises:
        ValueError: A file belongs to no part, or a part has no file.
    """
    facts = BytesParser().parsebytes(files[f"{dist_info(files)}/METADATA"])
    unknown = sorted(path for path in files if owner_of(path) is None)
    if unknown:
        raise ValueError(f"files of no known part, to be declared in release/sbom.py: {', '.join(unknown)}")
    # What states the others' digests, and the bill itself, are no materials.
    materials = {path: files[path] for path in files if not path.endswith(("/RECORD", f"/{BILL}"))}
    missing = [part.name for part in PARTS if not any(owner_of(path) is part for path in materials)]
    if missing:
        raise ValueError(f"the wheel has no file of {', '.join(missing)}")
    version = facts["Version"]
    main = {
        "type": "library",
        "bom-ref": NAME,
        "name": facts["Name"],
        "version": version,
        "description": facts["Summary"],
        "licenses": [{"expression": facts["License-Expression"]}],
        "purl": f"pkg:pypi/{_normalised(facts['Name'])}@{version}",
    }
    parts = [_component(part, materials, version) for part in PARTS if part.name != NAME]
    parts += [_component(part, {}, "") for part in INGREDIENTS]
    sources = {path: content for path, content in materials.items() if owner_of(path) is PARTS[-1]}
    main["components"] = _files(sources)
    required = [_requirement(text) for text in facts.get_all("Requires-Dist", []) if "extra ==" not in text]
    inside = [part.name for part in PARTS if part.name != NAME]
    depends = [
        {"ref": NAME, "dependsOn": sorted([*inside, *(item["bom-ref"] for item in required)])},
        *({"ref": part.name, "dependsOn": list(part.made_of)} for part in PARTS if part.made_of),
    ]
    content = hashlib.sha256(json.dumps([main, parts], sort_keys=True).encode()).hexdigest()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # The same wheel has the same bill, so no time is in it.
        "serialNumber": f"urn:uuid:{uuid.uuid5(_ISSUES, content)}",
        "version": 1,
        "metadata": {"component": main},
        "components": [*parts, *required],
        "dependencies": depends,
    }


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _component(part: Part, files: Mapping[str, bytes], version: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": part.kind,
        "bom-ref": part.name,
        "name": part.name,
        "description": part.about,
        "licenses": [_licence(part.licence)],
    }
    if part.origin:
        component["externalReferences"] = [{"type": "distribution", "url": part.origin}]
    elif part in PARTS:
        component["version"] = version
    own = {path: content for path, content in files.items() if owner_of(path) is part}
    if own:
        component["components"] = _files(own)
    return component


def _licence(expression: str) -> dict[str, Any]:
    if expression.startswith("LicenseRef-"):
        return {"license": {"name": "not stated by who published it"}}
    return {"license": {"id": expression}}


def _files(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "name": path,
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}],
        }
        for path, content in sorted(files.items())
    ]


def _requirement(text: str) -> dict[str, Any]:
    """A package that pip installs besides, of which the bill knows the bounds alone."""
    found = re.match(r"[\w.-]+", text)
    assert found is not None, text
    name = _normalised(found[0])
    return {
        "type": "library",
        "bom-ref": f"requirement:{name}",
        "name": name,
        "purl": f"pkg:pypi/{name}",
        "scope": "optional" if ";" in text else "required",
        "properties": [{"name": f"{NAME}:requirement", "value": text}],
    }


def embed(wheel: Path) -> str:
    """Put the bill into a wheel; returns its path there."""
    files = contents(wheel)
    path = f"{dist_info(files)}/sboms/{BILL}"
    # Two files of a wheel may only be there together: a bill lists what it is not itself.
    text = json.dumps(bill(files), indent=1, ensure_ascii=False) + "\n"
    with_files(wheel, {path: text.encode()})
    return path


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path, nargs="+")
    for wheel in parser.parse_args().wheel:
        try:
            print(f"{wheel}: {embed(wheel)}")
        except ValueError as error:
            print(f"{wheel}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
