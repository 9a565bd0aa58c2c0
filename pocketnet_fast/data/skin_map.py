"""Painting a person's skin map: what stays from photo to photo, and what moves with expression."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.head_surface import MAP_QX, MAP_QY, MAP_QZ, MAP_SIZE, HeadSurface
from pocketnet_fast.data.person import Person, Shot

FloatArray = npt.NDArray[np.float32]
SkinMap = npt.NDArray[np.uint8]

_SHIFT: Final = 4  # fractional bits of the coordinates of OpenCV's drawing
_CURVE: Final = np.linspace(-1, 1, 13)
_HAIR_SLOPE: Final = 5.0  # texels

Points = npt.NDArray[np.float64]
Color = FloatArray | Points | tuple[float, float, float]


class Head:
    """A person's head, ready to be photographed.

    Attributes:
        surface: Its shape.
        skin: uint8, the skin map without eyes, eyebrows and mouth.
        landmarks: 5 x 3, head coordinates, in the order of the alignment template.
    """

    def __init__(self, person: Person) -> None:
        self.person = person
        self.surface = HeadSurface(person.radii, person.centre_y, person.jaw)
        x = MAP_QX * self.surface.half_width(MAP_QY)
        y = MAP_QY * person.radii[1] + person.centre_y
        rng = np.random.default_rng(person.texture_seed)
        hair = _hair_cover(person, x, y, rng)
        # Rays find the surface only where it is not too steep.
        volume = cv2.GaussianBlur(hair, (0, 0), _HAIR_SLOPE)
        self.surface.bump = _bumps(person, x, y) * (1 - hair) + np.float32(person.hair_thickness) * volume
        self.skin = _paint_skin(person, self.surface, x, y, hair, rng)
        eye, mouth = person.eye_distance / 2, person.mouth_width
        self.landmarks = self.surface.point(
            [
                (-eye, 0),
                (eye, 0),
                (0, person.nose_length),
                (-mouth, person.mouth_y),
                (mouth, person.mouth_y),
            ]
        )

    def dressed(self, shot: Shot) -> SkinMap:
        """Return the skin map with eyes, eyebrows and mouth as they are in a photo."""
        drawing = _Drawing()
        for side in (-1, 1):
            _paint_eye(drawing, self.person, shot, side)
            _paint_brow(drawing, self.person, shot, side)
        _paint_mouth(drawing, self.person, shot)
        return drawing.on(self.skin.copy(), self.surface)


def _smooth(low: float, high: float, values: Any) -> Any:
    """0 below low, 1 above high, a cubic between."""
    t = np.minimum(np.maximum((values - low) * (1 / (high - low)), 0), 1)
    return t * t * (3 - 2 * t)


def _bell(x: Any, y: Any, centre: tuple[float, float], size: tuple[float, float]) -> Any:
    dx, dy = (x - centre[0]) * (1 / size[0]), (y - centre[1]) * (1 / size[1])
    return np.exp(-(dx * dx + dy * dy))


def _noise(rng: np.random.Generator, rows: int, columns: int) -> FloatArray:
    """Smooth noise of about unit variance with this many independent values."""
    values = rng.standard_normal((rows, columns), np.float32)
    return np.asarray(cv2.resize(values, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_CUBIC), np.float32)


def _bumps(p: Person, x: FloatArray, y: FloatArray) -> FloatArray:
    across = np.abs(x)
    eye = p.eye_distance / 2
    length = p.nose_length
    ridge = _smooth(-0.35, 0.15, y) * (1 - _smooth(length - 0.05, length + 0.16, y))
    bump = p.nose_bridge * ridge * np.exp(-((x / (0.10 + 0.25 * p.nose_width)) ** 2))
    bump += p.nose_tip * _bell(x, y, (0, length), (0.17, 0.20))
    bump += 0.4 * p.nose_tip * _bell(across, y, (0.8 * p.nose_width, length + 0.04), (0.11, 0.10))
    bump -= 0.045 * _bell(across, y, (eye, -0.02), (0.30, 0.20))
    bump += 0.030 * _bell(across, y, (eye, 0.0), (0.18, 0.13))
    bump += p.brow_ridge * _bell(across, y, (eye, -p.brow_rise), (0.35, 0.14))
    bump += p.cheeks * _bell(across, y, (0.68, 0.55), (0.34, 0.34))
    bump += p.chin * _bell(x, y, (0, 1.62), (0.30, 0.20))
    bump += 0.035 * _bell(x, y, (0, p.mouth_y), (0.45, 0.26))
    bump -= 0.02 * _bell(x, y, (0, p.mouth_y + 0.27), (0.30, 0.08))
    return np.asarray(bump, np.float32)


def _hair_cover(p: Person, x: FloatArray, y: FloatArray, rng: np.random.Generator) -> FloatArray:
    """How much of each texel hair covers, 0 to 1."""
    strands = 0.03 * _noise(rng, 12, 96)
    peak = p.hairline_peak * np.exp(-((x / 0.22) ** 2))
    line = p.hairline + 0.22 * x * x + peak
    if p.fringe > 0:
        away = np.abs(x - p.parting)
        line = np.maximum(line, p.hairline + p.fringe * (1 - np.exp(-3 * away)) * (1 - 0.2 * away))
    top = _smooth(-0.05, 0.05, line + strands - y)
    # 0 in front, 1 at the ear, more behind it.
    aside = np.arctan2(np.abs(MAP_QX), MAP_QZ) / (np.pi / 2)
    sides = _smooth(0.80, 0.90, aside + strands) * _smooth(-0.05, 0.05, p.hairline_sides + strands - y)
    return np.asarray(np.maximum(top, sides), np.float32)


def _facial_hair(p: Person, x: FloatArray, y: FloatArray, rng: np.random.Generator) -> FloatArray:
    """How much of each texel beard and moustache cover, 0 to 1."""
    stubble = 1 + 0.5 * _noise(rng, 100, 100)
    if p.beard == 0 and p.moustache == 0:
        return np.zeros_like(x)
    jaw = _smooth(-0.1, 0.1, y - p.beard_line - 0.5 * np.maximum(0, 0.75 - np.abs(x)))
    mouth = _bell(x, y, (0, p.mouth_y), (p.mouth_width + 0.08, 0.20))
    beard = p.beard * np.clip(jaw * (1 - mouth) * stubble, 0, 1)
    lip = (p.nose_length + 0.20 + p.mouth_y - p.lip_upper) / 2
    moustache = p.moustache * np.clip(2.2 * _bell(x, y, (0, lip), (0.36, 0.09)) * stubble, 0, 1)
    return np.asarray(np.maximum(beard, moustache), np.float32)


def _paint_skin(
    p: Person,
    surface: HeadSurface,
    x: FloatArray,
    y: FloatArray,
    hair: FloatArray,
    rng: np.random.Generator,
) -> SkinMap:
    across = np.abs(x)
    eye = p.eye_distance / 2
    tone = 1 + 0.035 * _noise(rng, 20, 20) + 0.02 * _noise(rng, 110, 110)
    tone -= 0.22 * _bell(across, y, (eye, -0.02), (0.34, 0.18))
    tone -= (0.05 + 0.16 * p.age) * _bell(across, y, (eye, 0.20), (0.24, 0.07))
    # Folds from the nose to the corners of the mouth, and lines on the forehead.
    fold = p.nose_width + 0.05 + 0.30 * (y - p.nose_length)
    within = _smooth(p.nose_length - 0.1, p.nose_length + 0.1, y) * (1 - _smooth(1.1, 1.3, y))
    tone -= (0.04 + 0.26 * p.age) * within * np.exp(-(((across - fold) / 0.045) ** 2))
    lines = np.cos(y * 38 + 0.5 * np.cos(2 * x))
    lines *= lines
    lines *= lines
    tone -= 0.28 * max(0.0, p.age - 0.3) * lines * lines * _bell(x, y, (0, -0.68), (0.6, 0.2))
    tone -= 0.10 * _bell(x, y, (0, p.nose_length + 0.15), (p.nose_width + 0.1, 0.07))
    red = p.blush * (
        _bell(across, y, (0.66, 0.52), (0.28, 0.24)) + _bell(x, y, (0, p.nose_length), (0.2, 0.15))
    )
    facial = _facial_hair(p, x, y, rng)
    streaks = 1 + 0.16 * _noise(rng, 10, 80) + 0.10 * _noise(rng, 4, 160)
    planes = []
    for skin, strand, redness in zip(p.skin, p.hair, (0.0, 0.55, 0.5), strict=True):
        plane = skin * tone * (1 - redness * red)
        plane += facial * (0.8 * strand - plane)
        plane += hair * (strand * streaks - plane)
        planes.append(np.minimum(np.maximum(plane * 255 + 0.5, 0), 255).astype(np.uint8))
    image = np.asarray(cv2.merge(planes), np.uint8)

    drawing = _Drawing()
    spots = np.column_stack([rng.uniform(-0.8, 0.8, p.freckles), rng.normal(0.42, 0.22, p.freckles)])
    for spot, size in zip(spots, rng.uniform(0.012, 0.028, p.freckles), strict=True):
        drawing.disc(spot, size, p.skin * 0.72)
    for mole in p.moles:
        drawing.disc(mole[:2], float(mole[2]), p.skin * (1 - mole[3]))
    for side in (-1, 1):
        nostril = np.array((side * 0.48 * p.nose_width, p.nose_length + 0.09))
        drawing.fill(nostril + _ellipse(0.26 * p.nose_width, 0.028), p.skin * 0.25)
        wing = _CURVE[:, None] * (0, 0.07) + np.sqrt(1 - _CURVE**2)[:, None] * (0.05, 0)
        drawing.line(wing * (side, 1) + (side * p.nose_width, p.nose_length + 0.03), p.skin * 0.62, 1)
    return drawing.on(image, surface)


_TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.column_stack([np.cos(_TURN), np.sin(_TURN)])


def _ellipse(half_width: float, half_height: float) -> Points:
    return _CIRCLE * (half_width, half_height)


class _Drawing:
    """Shapes in head coordinates, drawn on a skin map in their order."""

    def __init__(self) -> None:
        self._shapes: list[_Shape] = []

    def fill(self, outline: Points, color: Color) -> None:
        self._shapes.append(_Shape("fill", outline, color))

    def line(self, points: Points, color: Color, thickness: int) -> None:
        self._shapes.append(_Shape("line", points, color, thickness))

    def disc(self, centre: npt.ArrayLike, radius: float, color: Color) -> None:
        self.fill(np.asarray(centre, np.float64) + _CIRCLE[::3] * radius, color)

    @contextlib.contextmanager
    def within(self, outline: Points, background: Color) -> Iterator[None]:
        """What the block draws appears inside the outline alone, on a background."""
        self._shapes.append(_Shape("begin", outline, background))
        yield
        self._shapes.append(_Shape("end", outline, background))

    def on(self, image: SkinMap, surface: HeadSurface) -> SkinMap:
        """Draw on the image, and return it."""
        if not self._shapes:
            return image
        # All points are projected at once.
        texels = surface.map_point(np.concatenate([shape.points for shape in self._shapes]))
        fixed = np.rint(texels * (1 << _SHIFT)).astype(np.int32)
        ends = np.cumsum([len(shape.points) for shape in self._shapes])
        whole, part, corner = image, image, np.zeros(2, np.int32)
        for shape, points in zip(self._shapes, np.split(fixed, ends[:-1]), strict=True):
            color = [255 * min(max(float(channel), 0.0), 1.0) for channel in shape.color]
            if shape.kind == "fill":
                cv2.fillPoly(part, [points - corner], color, cv2.LINE_AA, _SHIFT)
            elif shape.kind == "line":
                cv2.polylines(part, [points - corner], False, color, shape.thickness, cv2.LINE_AA, _SHIFT)
            elif shape.kind == "begin":
                low = np.maximum(points.min(0) >> _SHIFT, 0)
                high = (points.max(0) >> _SHIFT) + 2
                whole = image[low[1] : high[1], low[0] : high[0]]
                part, corner = np.full_like(whole, color), low << _SHIFT
            else:
                mask = np.zeros_like(whole)
                cv2.fillPoly(mask, [points - corner], (255, 255, 255), cv2.LINE_AA, _SHIFT)
                weight = mask * np.float32(1 / 255)
                whole[:] = whole + (part.astype(np.float32) - whole) * weight + 0.5
                part, corner = image, np.zeros(2, np.int32)
        return image


class _Shape(NamedTuple):
    kind: str
    points: Points
    color: Color
    thickness: int = 0


def _paint_eye(drawing: _Drawing, p: Person, shot: Shot, side: int) -> None:
    turn = p.eye_tilt
    # x of the eye's own frame points to the temple on either side.
    across = np.array((side * np.cos(turn), -np.sin(turn)))
    down = np.array((side * np.sin(turn), np.cos(turn)))
    centre = np.array((side * p.eye_distance / 2, 0.0))
    half, height = p.eye_width / 2, p.eye_height * shot.eyelids

    def curve(rise: float, bias: float = 0.0) -> Points:
        t = _CURVE[:, None]
        bow = (1 - t * t) * (1 + bias * t)
        return centre + half * t * across + rise * bow * down

    upper, lower = curve(-0.68 * height, -0.25), curve(0.40 * height, 0.2)
    with drawing.within(np.concatenate([upper, lower[::-1]]), (0.90, 0.87, 0.85)):
        pupil = centre + np.array((0.09 * shot.gaze[0], 0.05 * shot.gaze[1] - 0.02))
        drawing.disc(pupil, 0.125, p.iris * 0.45)
        drawing.disc(pupil, 0.105, p.iris)
        drawing.disc(pupil, 0.048, (0.03, 0.03, 0.03))
        drawing.disc(pupil + np.array((0.035, -0.035)), 0.02, (0.95, 0.95, 0.95))
        drawing.line(curve(-0.68 * height + 0.03, -0.25), p.skin * 0.5, 1)
    drawing.line(lower, p.skin * 0.68, 1)
    drawing.line(curve(-0.68 * p.eye_height - 0.09, -0.2), p.skin * 0.70, 1)
    drawing.line(upper, p.brow * 0.5, 2)


def _paint_brow(drawing: _Drawing, p: Person, shot: Shot, side: int) -> None:
    t = (_CURVE + 1) / 2  # 0 at the nose, 1 at the temple
    x = p.eye_distance / 2 + (t - 0.48) * p.brow_length
    rise = p.brow_rise + 0.10 * shot.brows + p.brow_tilt * (t - 0.5) + p.brow_arch * (1 - (2 * t - 1.2) ** 2)
    thickness = p.brow_thickness * (1 - 0.75 * t**3)
    edge = np.column_stack([side * x, -rise - thickness / 2])
    other = np.column_stack([side * x, -rise + thickness / 2])
    drawing.fill(np.concatenate([edge, other[::-1]]), p.brow)


def _paint_mouth(drawing: _Drawing, p: Person, shot: Shot) -> None:
    color = p.lips + (shot.lip_tint[0] - p.lips) * shot.lip_tint[1]
    half = p.mouth_width * (1 + 0.14 * shot.smile - 0.15 * shot.open_mouth)
    gap = 0.26 * shot.open_mouth + 0.05 * max(0.0, shot.smile - 0.5)
    t = _CURVE
    bow = 1 - t * t
    middle = p.mouth_y + 0.05 * shot.smile
    corner = -0.12 * shot.smile

    def curve(offset: Points) -> Points:
        return np.column_stack([half * t, middle + corner * t * t + offset])

    cupid = bow * (1 - 0.28 * np.exp(-((t / 0.16) ** 2)))
    upper, lower = curve(-p.lip_upper * cupid - 0.3 * gap * bow), curve((p.lip_lower + 0.7 * gap) * bow)
    inner_upper, inner_lower = curve(-0.3 * gap * bow), curve(0.7 * gap * bow)
    drawing.fill(np.concatenate([upper, inner_upper[::-1]]), color * 0.88)
    drawing.fill(np.concatenate([lower, inner_lower[::-1]]), color)
    if gap > 0.02:
        with drawing.within(np.concatenate([inner_upper, inner_lower[::-1]]), (0.22, 0.05, 0.06)):
            teeth = np.concatenate([curve(-0.3 * gap * bow - 0.1), curve(0.09 - 0.3 * gap * bow)[::-1]])
            drawing.fill(teeth, (0.90, 0.88, 0.82))
    drawing.line(inner_upper, color * 0.45, 1)
