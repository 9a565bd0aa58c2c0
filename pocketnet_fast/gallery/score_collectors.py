"""What is kept of many scores, block by block: the best of each query, of each owner, or of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Scores = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

# Scores of which the maximum is compared before each is; of 65,536 this takes a third of comparing all.
_RUN: Final = 128
# Scores that wait for their place, for each place.
_WAITING: Final = 12


class ScoreCollector(Protocol):
    """What is kept of the scores."""

    def add(self, scores: Tensor, highest: Tensor, first_query: int, first_row: int) -> None:
        """Take a block.

        Args:
            scores: q x r float32, reused after the call; not contiguous in general.
            highest: q: the largest score of each query in this block.
            first_query: Number of the first query.
            first_row: Number of the first gallery row. A thread's blocks come with rising rows.
        """

    def merge(self, other: Any) -> None:
        """Take what another thread's collector holds; the rows of the two are disjoint."""


CollectorT = TypeVar("CollectorT", bound=ScoreCollector)
FirstT = TypeVar("FirstT", bound=ScoreCollector)
SecondT = TypeVar("SecondT", bound=ScoreCollector)


class BestPerQuery:
    """The highest scores of each query, and where they are.

    Equal scores are ordered by row, the lower one first.

    Attributes:
        scores: Q x K float32, falling; -inf where the gallery has fewer than K rows.
        rows: Q x K int64; -1 there.
    """

    def __init__(self, queries: int, top: int) -> None:
        self.scores: Scores = np.full((queries, top), -np.inf, np.float32)
        self.rows: Indices = np.full((queries, top), -1, np.int64)

    def add(self, scores: Tensor, highest: Tensor, first_query: int, first_row: int) -> None:  # noqa: D102
        lowest = torch.from_numpy(self.scores[first_query : first_query + len(highest), -1])
        better = (highest > lowest).nonzero().squeeze(1)
        if len(better) == 0:
            return
        found = scores[better]
        # A later row with the score of the last one kept comes after it, so it is not needed.
        needed = found > lowest[better].unsqueeze(1)
        top = self.scores.shape[1]
        if int(needed.count_nonzero()) > 8 * top * len(found):
            # As at the start, when all are. What a block has K better ones of is not needed either.
            needed &= found >= found.topk(top).values[:, -1:]
        query, row = needed.nonzero(as_tuple=True)
        self._insert(
            (better[query] + first_query).numpy(), found[query, row].numpy(), row.numpy() + first_row
        )

    def merge(self, other: BestPerQuery) -> None:  # noqa: D102
        query, place = np.nonzero(other.rows >= 0)
        self._insert(query, other.scores[query, place], other.rows[query, place])

    def _insert(self, query: Indices, score: Scores, row: Indices) -> None:
        top = self.scores.shape[1]
        touched = np.unique(query)
        query = np.concatenate([np.repeat(touched, top), query])
        score = np.concatenate([self.scores[touched].ravel(), score])
        row = np.concatenate([self.rows[touched].ravel(), row])
        order = np.lexsort((row, -score, query))
        starts = np.searchsorted(query[order], touched)
        kept = order[starts[:, None] + np.arange(top)]
        self.scores[touched], self.rows[touched] = score[kept], row[kept]


class BestPerOwner:
    """The highest scores of each query, one of each owner of rows, and where they are.

    Equal scores are ordered by row, the lower one first.

    Args:
        queries: Q.
        top: K.
        owners: Gives the owners of rows, int64; rows whose owner is below 0 are left out.

    """

    def __init__(self, queries: int, top: int, owners: Callable[[Indices], Indices]) -> None:
        self._scores: Scores = np.full((queries, top), -np.inf, np.float32)
        self._rows: Indices = np.full((queries, top), -1, np.int64)
        self._owners = owners
        # Putting scores in their places takes longer than finding them, so it is done for many at a time.
        self._waiting: list[tuple[Indices, Scores, Indices]] = []
        self._count = 0
        self._full = False

    @property
    def scores(self) -> Scores:
        """Q x K float32, falling; -inf where there are fewer than K owners."""
        self._place()
        return self._scores

    @property
    def rows(self) -> Indices:
        """Q x K int64; -1 where there are fewer than K owners."""
        self._place()
        return self._rows

    def add(self, scores: Tensor, highest: Tensor, first_query: int, first_row: int) -> None:  # noqa: D102
        lowest = torch.from_numpy(self._scores[first_query : first_query + len(highest), -1])
        better = (highest > lowest).nonzero().squeeze(1)
        if len(better) == 0:
            return
        found, least = scores[better] if len(better) < len(scores) else scores, lowest[better].unsqueeze(1)
        if self._full:
            query, row = _above(found, least)
        else:
            # What a block has K better owners than is not needed either.
            query, row = ((found > least) & (found >= self._limits(found, first_row))).nonzero(as_tuple=True)
        score = found[query, row]
        self.insert((better[query] + first_query).numpy(), score.numpy(), row.numpy() + first_row)

    def merge(self, other: BestPerOwner) -> None:  # noqa: D102
        query, place = np.nonzero(other.rows >= 0)
        self.insert(query, other.scores[query, place], other.rows[query, place])

    def _limits(self, found: Tensor, first_row: int) -> Tensor:
        """A score that K owners reach among the best, for each query; -inf where these belong to fewer."""
        values, places = found.topk(min(4 * self._scores.shape[1], found.shape[1]))
        scores, rows = values.numpy(), places.numpy() + first_row
        owners: Indices = self._owners(rows.ravel()).reshape(rows.shape)
        earlier = np.tri(rows.shape[1], k=-1) > 0
        new = (owners >= 0) & ~((owners[:, :, None] == owners[:, None, :]) & earlier).any(2)
        reached = new.cumsum(1) >= self._scores.shape[1]
        limits = np.where(reached.any(1), scores[np.arange(len(owners)), reached.argmax(1)], -np.inf)
        return torch.from_numpy(limits.astype(np.float32)).unsqueeze(1)

    def copy(self) -> BestPerOwner:
        """Another one that begins with what this one holds."""
        made = BestPerOwner(len(self._scores), self._scores.shape[1], self._owners)
        made._scores, made._rows, made._full = self.scores.copy(), self.rows.copy(), self._full
        return made

    def insert(self, query: Indices, score: Scores, row: Indices) -> None:
        """Take single scores, each with the numbers of its query and of its row."""
        self._waiting.append((query, score, row))
        self._count += len(query)
        if self._count > _WAITING * self._scores.size or not self._full:
            self._place()

    def _place(self) -> None:
        if not self._waiting:
            return
        query, score, row = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._count = [], 0
        owner = self._owners(row)
        query, score, row, owner = (part[owner >= 0] for part in (query, score, row, owner))
        if len(query) == 0:
            return
        top = self._scores.shape[1]
        touched = np.unique(query)
        kept_rows = self._rows[touched].ravel()
        # Places without a row are of nobody, and each of another one.
        kept_owners = np.where(kept_rows < 0, -2 - np.arange(len(kept_rows)), 0)
        kept_owners[kept_rows >= 0] = self._owners(kept_rows[kept_rows >= 0])
        query = np.concatenate([np.repeat(touched, top), query])
        score = np.concatenate([self._scores[touched].ravel(), score])
        row = np.concatenate([kept_rows, row])
        owner = np.concatenate([kept_owners, owner])
        order = np.lexsort((row, -score, query))
        query, score, row, owner = query[order], score[order], row[order], owner[order]
        by_owner = np.lexsort((owner, query))
        first = np.ones(len(by_owner), bool)
        same_query = query[by_owner][1:] == query[by_owner][:-1]
        first[1:] = ~(same_query & (owner[by_owner][1:] == owner[by_owner][:-1]))
        best = np.sort(by_owner[first])
        starts = np.searchsorted(query[best], touched)
        kept = best[starts[:, None] + np.arange(top)]
        self._scores[touched], self._rows[touched] = score[kept], row[kept]
        self._full = bool((self._rows[:, -1] >= 0).all())


class BestOverall:
    """The highest of all scores, whichever query they belong to.

    Args:
        count: How many to keep.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._limit = -np.inf
        self._parts: list[Tensor] = []
        self._held = 0

    def add(self, scores: Tensor, highest: Tensor, first_query: int, first_row: int) -> None:  # noqa: D102
        better = highest > self._limit
        if self._count and bool(better.any()):
            rows = scores[better]
            self._take(rows[rows > self._limit])

    def merge(self, other: BestOverall) -> None:  # noqa: D102
        for part in other._parts:
            self._take(part)

    def values(self) -> Scores:
        """The scores kept, falling; fewer than ``count`` only if there were no more."""
        self._shrink()
        return self._parts[0].numpy() if self._parts else np.zeros(0, np.float32)

    def _take(self, scores: Tensor) -> None:
        self._parts.append(scores)
        self._held += len(scores)
        if self._held > 4 * self._count:
            self._shrink()

    def _shrink(self) -> None:
        if not self._parts:
            return
        best = torch.cat(self._parts).sort(descending=True).values[: self._count].clone()
        self._parts, self._held = [best], len(best)
        if len(best) == self._count:
            self._limit = float(best[-1])


class Both(Generic[FirstT, SecondT]):
    """Two collectors of the same scores."""

    def __init__(self, first: FirstT, second: SecondT) -> None:
        self.first = first
        self.second = second

    def add(self, scores: Tensor, highest: Tensor, first_query: int, first_row: int) -> None:  # noqa: D102
        self.first.add(scores, highest, first_query, first_row)
        self.second.add(scores, highest, first_query, first_row)

    def merge(self, other: Both[FirstT, SecondT]) -> None:  # noqa: D102
        self.first.merge(other.first)
        self.second.merge(other.second)


def _above(scores: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Where the scores q x r exceed the least ones q x 1: few places, found by the maxima of runs."""
    count = scores.shape[1] // _RUN * _RUN
    runs = scores[:, :count].reshape(len(scores), -1, _RUN)
    query, run = (runs.amax(2) > least).nonzero(as_tuple=True)
    some, place = (runs[query, run] > least[query]).nonzero(as_tuple=True)
    rest_query, rest = (scores[:, count:] > least).nonzero(as_tuple=True)
    return torch.cat([query[some], rest_query]), torch.cat([run[some] * _RUN + place, rest + count])
