"""Samples of a model's inputs: what it takes at once, and how several are put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.runtime.session import Feeds


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of a model's inputs.

    Attributes:
        feeds: one a sample: what the model takes at once, a batch of one where it takes batches.
        axes: of each input that along which samples are put together, None for one that all share; None for
            all where samples are run one by one.
    """

    feeds: tuple[Feeds, ...]
    axes: Mapping[str, int | None] | None

    def __len__(self) -> int:
        return len(self.feeds)

    def __getitem__(self, which: slice) -> Samples:
        return Samples(self.feeds[which], self.axes)

    def chosen(self, which: Iterable[int]) -> Samples:
        """Those of these numbers, in this order."""
        return Samples(tuple(self.feeds[number] for number in which), self.axes)

    @property
    def one_by_one(self) -> Samples:
        """The same, each of which is run by itself."""
        return Samples(self.feeds, None)

    def arrays(self, name: str) -> list[npt.NDArray[Any]]:
        """What the samples have for one input."""
        return [feed[name] for feed in self.feeds]

    def joined(self) -> Feeds:
        """All of them as one run.

        Raises:
            ValueError: there are several, and they are run one by one.
        """
        if len(self.feeds) == 1:
            return dict(self.feeds[0])
        if self.axes is None:
            raise ValueError(f"{len(self.feeds)} samples that are run one by one")
        return {
            name: self.feeds[0][name] if axis is None else np.concatenate(self.arrays(name), axis)
            for name, axis in self.axes.items()
        }

    def cut(self, size: int) -> Iterator[Samples]:
        """So many at a time; what is left over at the end are fewer."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs."""
        return tuple(self.feeds[0]) if self.feeds else ()

    @property
    def kinds(self) -> dict[str, np.dtype[Any]]:
        """The type of each input."""
        return {name: array.dtype for name, array in self.feeds[0].items()}

    @property
    def alike(self) -> bool:
        """Whether all of them have the same sizes."""
        return len({_sizes(feed) for feed in self.feeds}) < 2

    @property
    def usual(self) -> Feeds:
        """The first of those of the sizes that most have, the larger ones where as many have others."""
        count = Counter(map(_sizes, self.feeds))
        most = max(count, key=lambda sizes: (count[sizes], sum(int(np.prod(s)) for _, s in sizes)))
        return next(feed for feed in self.feeds if _sizes(feed) == most)

    @property
    def of_one_size(self) -> Samples:
        """Those of the sizes that most have."""
        usual = _sizes(self.usual)
        return Samples(tuple(feed for feed in self.feeds if _sizes(feed) == usual), self.axes)


def rows(arrays: Feeds) -> Samples:
    """A sample for each row of arrays whose first axis counts them."""
    count = min((len(array) for array in arrays.values()), default=0)
    feeds = tuple({n: array[i : i + 1] for n, array in arrays.items()} for i in range(count))
    return Samples(feeds, dict.fromkeys(arrays, 0))


def together(parts: Sequence[Samples]) -> Samples:
    """The samples of several files or feeds; one by one unless all are put together in the same way.

    What all samples of each part share has to be the same in all of them, else they are run one by one.
    """
    feeds = tuple(feed for part in parts for feed in part.feeds)
    axes = parts[0].axes
    if axes is None or any(part.axes != axes for part in parts):
        return Samples(feeds, None)
    shared = [name for name, axis in axes.items() if axis is None]
    firsts = [part.feeds[0] for part in parts]
    alike = all(np.array_equal(firsts[0][name], feed[name]) for name in shared for feed in firsts)
    return Samples(feeds, axes if alike else None)


def content(array: npt.NDArray[Any]) -> bytes:
    """The values of an array; of texts each with its length, so that no two lists have the same."""
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array).tobytes()
    texts = (str(text).encode() for text in array.ravel())
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)


def _sizes(feed: Feeds) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, array.shape) for name, array in feed.items())
