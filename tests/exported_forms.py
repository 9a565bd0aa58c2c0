"""The forms of exported networks that tests go through, and a small network to export."""

from __future__ import annotations

from helpers import random_genotype, randomize_

from pocketnet_fast.models.pocketnet import PocketNet

FORMS = [
    ("fused", "float", "rgb"),
    ("fused", "uint8", "bgr"),
    ("aten", "float", "rgb"),
    ("aten", "uint8", "bgr"),
]


def small_network() -> PocketNet:
    return randomize_(PocketNet(random_genotype(11), 8, 4, 32), 11)
