"""Random changes of training images that leave the person recognisable, and mixing for distillation."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.data.turned_view import turn_face
from pocketnet_fast.errors import PocketNetError


@dataclass(frozen=True)
class Augmentation:
    """Changes images at random; each field is the probability that an image undergoes that change.

    The changes come in the order of the fields. Recognition from aligned crops is usually trained with the
    flip alone; the others help on difficult test images and in distillation.

    Attributes:
        flip: Mirrored.
        turn: Seen from another side; see ``data.turned_view``.
        crop: A part of 80 to 100 % of the sides, anywhere in the image, scaled to the whole (bilinear).
        color: Brightness and contrast by up to 30 %, saturation by up to 40 %, hue by up to 5 % of the
            circle; one in ten of these images becomes grey instead of changing in saturation and hue.
        blur: One of a Gaussian of 0.4 to 1.6 pixels, halving to a quarter of the size and back, or JPEG of
            quality 20 to 80.
        cutout: A rectangle of 3 to 15 % of the area and a side ratio of 1:2 to 2:1 filled with one colour.

    Raises:
        PocketNetError: A probability is not in 0..1.
    """

    flip: float = 0.5
    turn: float = 0.0
    crop: float = 0.0
    color: float = 0.0
    blur: float = 0.0
    cutout: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise PocketNetError(f"augmentation {field.name}={value}: expected a probability, 0 to 1")

    def __call__(self, image: ImageArray, rng: np.random.Generator) -> ImageArray:
        """Return a changed image; the given one may be returned itself or written to.

        Args:
            image: H x W x 3 uint8, RGB.
            rng: What the changes depend on.
        """
        changes = (
            (self.flip, _flip),
            (self.turn, turn_face),
            (self.crop, _crop),
            (self.color, _color),
            (self.blur, _blur),
            (self.cutout, _cutout),
        )
        for probability, change in changes:
            if probability > 0 and rng.random() < probability:
                image = change(image, rng)
        return image


def _flip(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    return _uint8(cv2.flip(image, 1))


def _crop(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    height, width = image.shape[:2]
    scale = rng.uniform(0.8, 1.0)
    left = rng.uniform(0, (1 - scale) * width)
    top = rng.uniform(0, (1 - scale) * height)
    # Pixel centres: x of the source = left + (x + 0.5) * scale - 0.5.
    shift = 0.5 * scale - 0.5
    inverse = np.array([[scale, 0, left + shift], [0, scale, top + shift]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return _uint8(
        cv2.warpAffine(image, inverse, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    )


# Weights of red, green and blue in luma (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114])
# RGB to YIQ, in which a turn about the first axis changes the hue and keeps the luma.
_TO_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def _color(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Every change is linear in the pixel, so one 3x4 matrix does all of them."""
    brightness, contrast = rng.uniform(0.7, 1.3, 2)
    if rng.random() < 0.1:
        mix = np.tile(_LUMA, (3, 1))
    else:
        saturation = rng.uniform(0.6, 1.4)
        turn = 2 * math.pi * rng.uniform(-0.05, 0.05)
        chroma = saturation * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        inner = np.eye(3)
        inner[1:, 1:] = chroma
        mix = _FROM_YIQ @ inner @ _TO_YIQ
    # Contrast is about the mean luma, as it is after the change of brightness.
    middle = float(_LUMA @ cv2.mean(image)[:3]) * brightness
    matrix = np.empty((3, 4), np.float32)
    matrix[:, :3] = mix * (brightness * contrast)
    matrix[:, 3] = middle * (1 - contrast)
    return _uint8(cv2.transform(image, matrix))


def reduced(image: ImageArray, width: int, height: int) -> ImageArray:
    """The image as it comes from one of so few pixels: shrunk and enlarged again.

    Args:
        image: H,W,C uint8.
        width: From 1 to W.
        height: From 1 to H.
    """
    shrunk = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return _uint8(cv2.resize(shrunk, image.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def _blur(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    height, width = image.shape[:2]
    kind = rng.integers(3)
    if kind == 0:
        return _uint8(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6)))
    if kind == 1:
        scale = rng.uniform(0.25, 0.5)
        return reduced(image, max(1, round(width * scale)), max(1, round(height * scale)))
    # The encoder is told that the channels are BGR, as is the decoder: the order cancels, and the chroma
    # subsampling falls on slightly other weights.
    done, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 81))))
    if not done:
        raise RuntimeError("OpenCV cannot write JPEG")
    return _uint8(cv2.imdecode(data, cv2.IMREAD_COLOR))


def _cutout(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    height, width = image.shape[:2]
    area = rng.uniform(0.03, 0.15) * height * width
    ratio = math.exp(rng.uniform(-math.log(2), math.log(2)))
    tall = min(height, max(1, round(math.sqrt(area * ratio))))
    wide = min(width, max(1, round(math.sqrt(area / ratio))))
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    image[top : top + tall, left : left + wide] = rng.integers(0, 256, 3, dtype=np.uint8)
    return image


def _uint8(image: Any) -> ImageArray:
    return np.asarray(image, np.uint8)


def mix_batch(images: Tensor, *, mixup: float, cutmix: float, generator: torch.Generator) -> Tensor:
    """Mix images of a batch with one another, for distillation, where the teacher answers for the mixture.

    An image is blended with another one of the batch with probability ``mixup``, the share of the other
    uniform in 0..1 (that is Beta(1, 1)), or has a rectangle of the other pasted in with probability
    ``cutmix``, its area uniform in 0..1 of the image before it is cut off at the border; or stays as it is.
    The other image is that of a random permutation. Partners come from the batch given: two processes mix
    otherwise than one.

    Args:
        images: float, N x 3 x H x W, normalised.
        mixup: Probability, 0 to 1.
        cutmix: Probability, 0 to 1; together with ``mixup`` at most 1.
        generator: A generator of the CPU, whatever the images' device.

    Returns:
        A new tensor, or ``images`` itself when both probabilities are 0.

    Raises:
        PocketNetError: The images are no such tensor or the probabilities are out of range.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise PocketNetError(f"expected float N x 3 x H x W images, got {tuple(images.shape)} {images.dtype}")
    if mixup < 0 or cutmix < 0 or mixup + cutmix > 1:
        raise PocketNetError(
            f"mixup={mixup}, cutmix={cutmix}: expected probabilities with a sum of at most 1"
        )
    if mixup == 0 and cutmix == 0:
        return images
    count, _, height, width = images.shape
    other = torch.randperm(count, generator=generator)
    choice, share, centre_y, centre_x = torch.rand(4, count, 1, 1, generator=generator)
    blend = torch.where(choice < mixup, share, 0.0).view(count, 1, 1, 1)
    half = share.sqrt() / 2
    rows = (torch.arange(height).view(1, height, 1) + 0.5) / height
    columns = (torch.arange(width).view(1, 1, width) + 0.5) / width
    inside = ((rows - centre_y).abs() < half) & ((columns - centre_x).abs() < half)
    pasted = (inside & (choice >= mixup) & (choice < mixup + cutmix)).view(count, 1, height, width)
    weight = torch.where(pasted, 1.0, blend).to(images.device, images.dtype)
    return torch.lerp(images, images[other.to(images.device)], weight)
