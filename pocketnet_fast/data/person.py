"""What a rendered person and a photo of one are: numbers drawn at random.

Lengths are in units of the usual distance between the eyes, in head coordinates: x to the right of the image,
y down, z towards the camera, the origin between the eyes. Colours are RGB, 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Person:
    """What all photos of an identity share.

    Attributes:
        radii: Half the head's width, height and depth.
        centre_y: The vertical centre of the head.
        jaw: Share by which the head is narrower at the chin than an ellipsoid.
        cheeks, chin, brow_ridge: How far these stand out, relative to the radius.
        eye_distance, eye_width, eye_height, eye_tilt: Of the eyes; the tilt is in radians.
        iris: Colour.
        brow_rise, brow_thickness, brow_arch, brow_tilt, brow_length: Of the eyebrows.
        nose_length, nose_width, nose_bridge, nose_tip: The last two are heights, relative to the radius.
        mouth_y, mouth_width, lip_upper, lip_lower: Of the closed mouth at rest.
        skin, lips, brow, hair: Colours.
        blush: Redness of cheeks and nose.
        freckles: Number.
        moles: N x 4: x, y, radius, darkness.
        age: 0 to 1, how deep the wrinkles are.
        beard, moustache: Density, 0 to 1.
        beard_line: y at which the beard begins on the cheek.
        hairline, hairline_peak, hairline_sides: y of the hair's border in the middle, how much a peak hangs
            down there, and y to which the hair reaches at the sides.
        parting, fringe: Where the fringe parts, and how far it hangs down.
        hair_thickness: Relative to the radius.
        hair_length: y to which hair hangs beside the neck; below the chin for long hair.
        glasses: None, or the radii of the rims, their roundness and darkness.
        texture_seed: The seed of the patterns on the skin and in the hair.
    """

    radii: tuple[float, float, float]
    centre_y: float
    jaw: float
    cheeks: float
    chin: float
    brow_ridge: float
    eye_distance: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    iris: FloatArray
    brow_rise: float
    brow_thickness: float
    brow_arch: float
    brow_tilt: float
    brow_length: float
    nose_length: float
    nose_width: float
    nose_bridge: float
    nose_tip: float
    mouth_y: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    skin: FloatArray
    lips: FloatArray
    brow: FloatArray
    hair: FloatArray
    blush: float
    freckles: int
    moles: FloatArray
    age: float
    beard: float
    moustache: float
    beard_line: float
    hairline: float
    hairline_peak: float
    hairline_sides: float
    parting: float
    fringe: float
    hair_thickness: float
    hair_length: float
    glasses: tuple[float, float, float, float] | None
    texture_seed: int


@dataclass(frozen=True)
class Shot:
    """What differs from photo to photo.

    Attributes:
        yaw, pitch, roll: Of the head, in radians.
        landmark_error: 5 x 2, pixels: what a detector gets wrong before alignment.
        light: Direction to the light, unit length, in view coordinates.
        diffuse, ambient: 3 each: the lamp's and the surroundings' strength by colour channel.
        gloss: Strength of the highlight.
        smile: -0.5 (sad) to 1.
        open_mouth, eyelids, brows: 0 to 1: opening of the mouth, of the eyes, lift of the eyebrows.
        gaze: x, y: -1 to 1.
        lip_tint: Colour and strength of make-up on the lips.
        wears_glasses: If the person has glasses.
        background: 3 x 3 x 3 colours, enlarged to the picture.
        occluder: None, or centre x, y, half sizes and angle of something before the face, in pixels and
            radians, and its colour.
        contrast, saturation: Of the camera.
        blur: Standard deviation, pixels.
        noise: Standard deviation, grey levels.
        noise_seed: The seed of the noise.
    """

    yaw: float
    pitch: float
    roll: float
    landmark_error: FloatArray
    light: FloatArray
    diffuse: FloatArray
    ambient: FloatArray
    gloss: float
    smile: float
    open_mouth: float
    eyelids: float
    brows: float
    gaze: tuple[float, float]
    lip_tint: tuple[FloatArray, float]
    wears_glasses: bool
    background: FloatArray
    occluder: tuple[tuple[float, float, float, float, float], FloatArray] | None
    contrast: float
    saturation: float
    blur: float
    noise: float
    noise_seed: int


_SKIN = np.array([(0.96, 0.80, 0.70), (0.86, 0.64, 0.50), (0.66, 0.45, 0.32), (0.36, 0.23, 0.16)])
_HAIR = np.array(
    [(0.06, 0.05, 0.05), (0.20, 0.12, 0.07), (0.42, 0.27, 0.14), (0.76, 0.60, 0.35), (0.55, 0.22, 0.09)]
)
_GREY = np.array((0.68, 0.67, 0.66))
_IRIS = np.array([(0.16, 0.09, 0.05), (0.40, 0.25, 0.10), (0.30, 0.42, 0.22), (0.30, 0.48, 0.66)])


def _along(colors: npt.NDArray[np.float64], position: float) -> npt.NDArray[np.float64]:
    """Colour at a position in 0..1 along a row of colours."""
    at = np.linspace(0, 1, len(colors))
    return np.array([np.interp(position, at, channel) for channel in colors.T])


def _float32(values: npt.ArrayLike) -> FloatArray:
    return np.clip(np.asarray(values, np.float32), 0, 1)


def draw_person(rng: np.random.Generator) -> Person:
    """Draw an identity."""
    uniform = rng.uniform
    melanin = uniform()
    skin = _along(_SKIN, melanin) * uniform(0.95, 1.05, 3)
    age = uniform() ** 1.5
    # Dark skin seldom goes with light hair.
    hair = _along(_HAIR[:4], uniform() ** (0.8 + 1.5 * melanin))
    if uniform() < 0.1:
        hair = _HAIR[4] * uniform(0.8, 1.3)
    grey = float(np.clip(2.5 * (age - 0.6), 0, 1)) * uniform()
    hair = hair * (1 - grey) + _GREY * grey
    bald = uniform() < 0.12
    bearded = uniform() < 0.35
    moles = int(rng.integers(0, 5))
    radii = (uniform(1.10, 1.34), uniform(1.72, 1.98), uniform(1.35, 1.6))
    return Person(
        radii=radii,
        centre_y=uniform(-0.02, 0.14),
        jaw=uniform(-0.12, 0.32),
        cheeks=uniform(-0.03, 0.06),
        chin=uniform(-0.03, 0.08),
        brow_ridge=uniform(0.0, 0.05),
        eye_distance=uniform(0.90, 1.10),
        eye_width=uniform(0.40, 0.56),
        eye_height=uniform(0.13, 0.25),
        eye_tilt=uniform(-0.16, 0.16),
        iris=_float32(_along(_IRIS, uniform() ** (1 + 2 * melanin)) * uniform(0.8, 1.2, 3)),
        brow_rise=uniform(0.25, 0.42),
        brow_thickness=uniform(0.04, 0.14),
        brow_arch=uniform(0.0, 0.13),
        brow_tilt=uniform(-0.18, 0.18),
        brow_length=uniform(0.52, 0.76),
        nose_length=uniform(0.50, 0.70),
        nose_width=uniform(0.19, 0.36),
        nose_bridge=uniform(0.03, 0.11),
        nose_tip=uniform(0.10, 0.22),
        mouth_y=uniform(1.04, 1.26),
        mouth_width=uniform(0.30, 0.47),
        lip_upper=uniform(0.04, 0.12),
        lip_lower=uniform(0.06, 0.17),
        skin=_float32(skin),
        lips=_float32(skin * (0.88, 0.62, 0.62) * uniform(0.85, 1.12)),
        brow=_float32(hair * uniform(0.45, 0.95) + skin * 0.08),
        hair=_float32(hair),
        blush=uniform(0, 0.25),
        freckles=int(rng.integers(20, 120)) if uniform() < 0.3 * (1 - melanin) + 0.05 else 0,
        moles=np.column_stack(
            [
                uniform(-0.9, 0.9, moles),
                uniform(-0.7, 1.5, moles),
                uniform(0.018, 0.034, moles),
                uniform(0.4, 0.8, moles),
            ]
        ).astype(np.float32),
        age=age,
        beard=uniform(0.35, 0.95) if bearded else 0.0,
        moustache=uniform(0.35, 0.95) if bearded or uniform() < 0.08 else 0.0,
        beard_line=uniform(0.75, 1.25),
        hairline=uniform(-1.75, -1.5) if bald else uniform(-1.45, -0.85),
        hairline_peak=uniform(-0.12, 0.2),
        hairline_sides=uniform(-0.4, 1.1),
        parting=uniform(-0.8, 0.8),
        fringe=0.0 if bald or uniform() < 0.6 else uniform(0.1, 0.5),
        hair_thickness=0.01 if bald else uniform(0.03, 0.14),
        hair_length=0.0 if bald or uniform() < 0.5 else uniform(0.8, 2.4),
        glasses=(uniform(0.30, 0.44), uniform(0.22, 0.36), uniform(0, 1), uniform(0, 0.5))
        if uniform() < 0.18
        else None,
        texture_seed=int(rng.integers(2**32)),
    )


def draw_shot(rng: np.random.Generator) -> Shot:
    """Draw a photo's circumstances."""
    uniform, normal = rng.uniform, rng.normal
    direction = normal(size=3) * (1.0, 0.6, 0.5) + (0.0, -0.4, 0.9)
    direction[2] = abs(direction[2])
    strength = uniform(0.3, 0.9)
    exposure = uniform(0.75, 1.15)
    # Daylight to lamp light: red and blue change against each other.
    warmth = normal(0, 0.08)
    white = np.array((1 + warmth, 1 + normal(0, 0.03), 1 - warmth))
    surroundings = 1 + normal(0, 0.06, 3)
    occluded = uniform() < 0.08
    occluder = (
        (
            (uniform(0, 112), uniform(10, 112), uniform(10, 26), uniform(8, 30), uniform(0, np.pi)),
            _float32(uniform(0.05, 0.95, 3)),
        )
        if occluded
        else None
    )
    return Shot(
        yaw=float(np.clip(normal(0, 0.33), -0.85, 0.85)),
        pitch=float(np.clip(normal(0, 0.16), -0.45, 0.45)),
        roll=float(normal(0, 0.12)),
        landmark_error=normal(0, 0.7, (5, 2)).astype(np.float32),
        light=(direction / np.linalg.norm(direction)).astype(np.float32),
        diffuse=(exposure * strength * white).astype(np.float32),
        ambient=(exposure * (1.02 - 0.75 * strength) * surroundings).astype(np.float32),
        gloss=uniform(0, 0.22),
        smile=uniform(-0.4, 1.0),
        open_mouth=max(0.0, uniform(-1.2, 1.0)),
        eyelids=1 - 0.85 * uniform() ** 4,
        brows=uniform(-0.3, 1.0) ** 3,
        gaze=(uniform(-1, 1), uniform(-0.6, 0.6)),
        lip_tint=(
            _float32((uniform(0.5, 0.9), uniform(0.05, 0.4), uniform(0.15, 0.45))),
            max(0.0, uniform(-1.5, 0.8)),
        ),
        wears_glasses=bool(uniform() < 0.8),
        background=_float32(uniform(0.05, 0.95) + normal(0, 0.13, 3) + normal(0, 0.13, (3, 3, 3))),
        occluder=occluder,
        contrast=uniform(0.8, 1.25),
        saturation=uniform(0.5, 1.3),
        blur=max(0.0, uniform(-0.4, 1.3)),
        noise=uniform(0, 7),
        noise_seed=int(rng.integers(2**32)),
    )
