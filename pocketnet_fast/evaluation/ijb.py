"""IJB-B and IJB-C: verification and identification of templates (Maze et al., ICB 2018).

1:1 verification gives true accept rates at false accept rates, over the published pairs. In 1:N
identification a probe is searched in each of two galleries, whose people are different ones; a probe of a
person in the gallery is mated there. Closed set: the part of the mated probes whose rank is k or better.
Open set: the true positive identification rate, the part of the mated probes with rank 1 whose mate scores
above a threshold, at a false positive identification rate, the part of the others that score above it with
anybody. Figures of the two galleries are averaged.

Equal scores count as errors everywhere: a rank is one more than the number of other people's templates with
at least the mate's score, and what ties with a score that has to be rejected is rejected (see ``rates``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import align
from pocketnet_fast.data.images import read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.ijb_files import (
    IjbFiles,
    IjbImage,
    Pairs,
    iterate_images,
    iterate_pairs,
    read_members,
    read_subjects,
)
from pocketnet_fast.evaluation.rates import OperatingPoint, operating_point, roc_points
from pocketnet_fast.evaluation.templates import TemplatePool
from pocketnet_fast.evaluation.verification import Embed

Embeddings = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

FARS: Final = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FPIRS: Final = (0.01, 0.1)
RANKS: Final = (1, 5, 10)
_CMC_RANKS: Final = 50
_PROBES: Final = 512


@dataclass(frozen=True)
class Templates:
    """Pooled templates.

    Attributes:
        ids: T, rising.
        embeddings: T x D float32, of length 1.
    """

    ids: Integers
    embeddings: Embeddings

    def rows(self, ids: Integers) -> Integers:
        """Where templates stand, all of which are there."""
        return np.searchsorted(self.ids, ids)


@dataclass(frozen=True)
class Verification:
    """The 1:1 result.

    Attributes:
        genuine: Number of pairs of one person.
        impostors: Number of pairs of two.
        points: True accept rates, in the order of the false accept rates asked for.
        roc: False and true accept rates, rising, for a picture.
    """

    genuine: int
    impostors: int
    points: list[OperatingPoint]
    roc: Curve


@dataclass(frozen=True)
class GallerySearch:
    """The 1:N result in one gallery.

    Attributes:
        gallery: Number of its templates.
        mated: Number of probes of its people.
        others: Number of the other probes.
        cmc: Part of the mated probes with rank 1, 2, ... or better.
        points: True positive identification rates (as ``tar``) at false positive identification rates
            (``far``).
    """

    gallery: int
    mated: int
    others: int
    cmc: npt.NDArray[np.float64]
    points: list[OperatingPoint]

    def top(self, rank: int) -> float:
        """Part of the mated probes with this rank or better; ranks up to 50 are counted."""
        return float(self.cmc[rank - 1])


def pool_templates(
    files: IjbFiles,
    embed: Embed,
    dimensions: int,
    *,
    pairs: bool = True,
    searches: bool = True,
    batch_size: int = 32,
    on_total: Callable[[int], None] = lambda _: None,
    on_images: Callable[[int], None] = lambda _: None,
) -> Templates:
    """Align and embed the images and pool their templates as they arrive.

    All metadata are read and checked before the first image. Memory: 16 bytes and a name per image, a batch
    of crops, and the templates.

    Args:
        files: The benchmark.
        embed: B x 112 x 112 x 3 uint8, RGB, to B x D, not normalised, mirror images included if wanted.
        dimensions: D.
        pairs: Pool the templates of the pairs of 1:1.
        searches: Pool the templates of the searches of 1:N.
        batch_size: Images per call.
        on_total: Called with the number of images, before the first.
        on_images: Called with the number of images done; may raise to end it.

    Raises:
        PocketNetError: Metadata or an image cannot be used, a template of a pair or a search has no image, or
            an embedding is not finite.

    Examples:
        >>> files = find_files("IJB_release/IJBC")
        >>> templates = pool_templates(files, embedder, 128, pairs=True, searches=False)
    """
    names, templates, media = read_members(files)
    known = np.unique(templates)
    wanted = [np.zeros(0, np.int64)]
    if pairs:
        wanted += [np.union1d(block.first, block.second) for block in _checked_pairs(files, known)]
    if searches:
        wanted += [read_subjects(path, known)[0] for path in (*files.galleries, files.probes)]
    pool = TemplatePool(templates, media, dimensions, np.concatenate(wanted))
    for _ in iterate_images(files, names):
        pass
    needed = np.zeros(len(names), bool)
    needed[pool.needs()] = True
    on_total(int(needed.sum()))
    batch: list[IjbImage] = []
    crops: list[npt.NDArray[np.uint8]] = []

    def flush() -> None:
        if not batch:
            return
        embeddings = embed(np.stack(crops))
        wrong = np.flatnonzero(~np.isfinite(embeddings).all(1))
        if len(wrong):
            raise PocketNetError(f"{batch[wrong[0]].path}: its embedding is not finite")
        pool.add(np.array([image.number for image in batch]), embeddings, [image.score for image in batch])
        on_images(len(batch))
        batch.clear()
        crops.clear()

    for image in iterate_images(files, names):
        if needed[image.number]:
            crops.append(_crop(files, image))
            batch.append(image)
            if len(batch) == batch_size:
                flush()
    flush()
    return Templates(pool.ids, pool.embeddings())


def verify(
    files: IjbFiles,
    templates: Templates,
    *,
    fars: Sequence[float] = FARS,
    on_pairs: Callable[[int], None] = lambda _: None,
) -> Verification:
    """Score the published pairs block by block; the scores of all, 4 bytes each, are what is kept.

    Args:
        files: The benchmark.
        templates: At least those of the pairs.
        fars: False accept rates.
        on_pairs: Called with the number of pairs done.

    Raises:
        PocketNetError: The list of pairs is damaged, names a template that is not there, or lacks pairs of
            one person or of two.

    Examples:
        >>> for point in verify(files, templates).points:
        ...     print(point.far, point.tar)
    """
    genuine, impostors = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for block in _checked_pairs(files, templates.ids):
        rows = templates.rows(block.first), templates.rows(block.second)
        for first in range(0, len(block.same), 1 << 14):
            part = slice(first, first + (1 << 14))
            left, right = (templates.embeddings[row[part]] for row in rows)
            scores = np.einsum("nd,nd->n", left, right)
            genuine.append(scores[block.same[part]])
            impostors.append(scores[~block.same[part]])
        on_pairs(len(block.same))
    mates = np.concatenate(genuine)
    others = np.concatenate(impostors)
    others[::-1].sort()
    points = [operating_point(mates, others, len(others), far) for far in fars]
    return Verification(len(mates), len(others), points, roc_points(mates, others))


def identify(
    files: IjbFiles,
    templates: Templates,
    *,
    fpirs: Sequence[float] = FPIRS,
    on_probes: Callable[[int], None] = lambda _: None,
) -> list[GallerySearch]:
    """Search all probes in both galleries.

    Args:
        files: The benchmark.
        templates: At least those of the galleries and of the probes.
        fpirs: False positive identification rates.
        on_probes: Called with the number of searches done.

    Raises:
        PocketNetError: A list is damaged or names a template that is not there, or a gallery has no mated
            probes or no others.

    Examples:
        >>> for result in identify(files, templates):
        ...     print(result.top(1))
    """
    probe_ids, probe_subjects = read_subjects(files.probes, templates.ids)
    probes = templates.embeddings[templates.rows(probe_ids)]
    results = []
    for path in files.galleries:
        ids, subjects = read_subjects(path, templates.ids)
        gallery = templates.embeddings[templates.rows(ids)]
        results.append(
            search_gallery(
                probes, probe_subjects, gallery, subjects, fpirs=fpirs, on_probes=on_probes, name=str(path)
            )
        )
    return results


def search_gallery(
    probes: Embeddings,
    probe_subjects: Integers,
    gallery: Embeddings,
    gallery_subjects: Integers,
    *,
    fpirs: Sequence[float] = FPIRS,
    on_probes: Callable[[int], None] = lambda _: None,
    name: str = "the gallery",
) -> GallerySearch:
    """Search probes in a gallery; where a person has several templates there, the best one counts.

    Args:
        probes: P x D, of length 1.
        probe_subjects: P.
        gallery: G x D, of length 1.
        gallery_subjects: G.
        fpirs: False positive identification rates.
        on_probes: Called with the number of probes done.
        name: How errors call the gallery.

    Raises:
        PocketNetError: No probe is mated, or all are.
    """
    mate = np.full(len(probes), -np.inf, np.float32)
    highest = np.empty(len(probes), np.float32)
    ranks = np.empty(len(probes), np.int64)
    for first in range(0, len(probes), _PROBES):
        part = slice(first, first + _PROBES)
        scores = probes[part] @ gallery.T
        own = probe_subjects[part, None] == gallery_subjects
        highest[part] = scores.max(1)
        mate[part] = np.where(own, scores, -np.inf).max(1)
        ranks[part] = 1 + ((scores >= mate[part, None]) & ~own).sum(1)
        on_probes(len(scores))
    mated = np.isin(probe_subjects, gallery_subjects)
    count = int(mated.sum())
    if count in (0, len(probes)):
        raise PocketNetError(
            f"{name}: {count} of {len(probes)} probes are mated; rates need some of either kind"
        )
    cmc = np.array([np.mean(ranks[mated] <= rank) for rank in range(1, _CMC_RANKS + 1)])
    first_and_mate = np.where(ranks[mated] == 1, mate[mated], np.float32(-np.inf))
    others = -np.sort(-highest[~mated])
    points = [operating_point(first_and_mate, others, len(others), fpir) for fpir in fpirs]
    return GallerySearch(len(gallery), count, len(others), cmc, points)


def _crop(files: IjbFiles, image: IjbImage) -> npt.NDArray[np.uint8]:
    pixels = read_image(image.path)
    try:
        return align(pixels, image.landmarks)
    except PocketNetError as error:
        raise PocketNetError(f"{files.landmarks}, line {image.number + 1}: {error}") from None


def _checked_pairs(files: IjbFiles, known: Integers) -> Iterator[Pairs]:
    for block in iterate_pairs(files):
        for templates in (block.first, block.second):
            absent = np.flatnonzero(~np.isin(templates, known))
            if len(absent):
                raise PocketNetError(
                    f"{files.pairs}, line {block.line + int(absent[0])}: template {templates[absent[0]]} has "
                    "no image"
                )
        yield block
