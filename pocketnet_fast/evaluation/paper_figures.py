"""What the PocketNet paper reports, to print beside what is measured."""

from __future__ import annotations

from typing import Final

# Boutros et al., IEEE Access 2022, arXiv 2108.10710: accuracy in percent, multi-step knowledge distillation.
_ACCURACY: Final = {
    "pocketnet_s128": {"lfw": 99.58, "calfw": 95.48, "cplfw": 89.63, "cfp_fp": 94.21, "agedb_30": 96.10},
    "pocketnet_s256": {"lfw": 99.66, "calfw": 95.50, "cplfw": 88.93, "cfp_fp": 93.34, "agedb_30": 96.35},
}
_ALIASES: Final = {"cfpfp": "cfp_fp", "agedb30": "agedb_30", "agedb": "agedb_30"}


def paper_accuracy(model: str, dataset: str) -> float | None:
    """Return the paper's accuracy in percent; None where it is not known.

    Args:
        model: The registry's name.
        dataset: Its usual name, such as "lfw" or "CFP-FP"; a part of a dataset has another.
    """
    name = dataset.lower().replace("-", "_")
    return _ACCURACY.get(model, {}).get(_ALIASES.get(name, name))
