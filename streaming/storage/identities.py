"""Sets of pictures by their identities, in 16 bytes of memory each: a set of Python takes ten times as much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streaming.storage.folder import IDENTITY_BYTES

_TYPE = pa.binary(IDENTITY_BYTES)
_DTYPE = f"S{IDENTITY_BYTES}"
_AT_ONCE = 10_000


class Identities(AbstractSet[bytes]):
    """A set that does not change; iteration is in ascending order.

    Attributes:
        ordered: (n,) S16, ascending. An element that becomes an object of Python loses zeros at its end.
    """

    def __init__(self, ordered: NDArray[np.bytes_]) -> None:
        self.ordered = ordered

    @classmethod
    def of(cls, identities: Iterable[bytes]) -> Identities:
        """Those of any iterable, which may come several times."""
        return cls._unique(np.fromiter(identities, _DTYPE))

    _from_iterable = of  # type: ignore[assignment] # for the operators that the base class has

    @classmethod
    def of_columns(cls, columns: Iterable[pa.Array | pa.ChunkedArray]) -> Identities:
        """Those in columns of Arrow or Parquet, without an object of Python for each."""
        parts = [np.empty(0, _DTYPE)]
        for column in columns:
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else (column,):
                fixed = chunk.cast(_TYPE)
                if len(fixed):
                    parts.append(np.frombuffer(fixed.buffers()[1], _DTYPE, len(fixed), fixed.offset * IDENTITY_BYTES))
        return cls._unique(np.concatenate(parts))

    @classmethod
    def of_packed(cls, parts: Iterable[bytes]) -> Identities:
        """Those that `packed` has given, of several sets."""
        return cls._unique(np.frombuffer(bytearray(b"").join(parts), _DTYPE))

    def packed(self) -> bytes:
        """All of them one after the other."""
        return self.ordered.tobytes()

    @classmethod
    def _unique(cls, found: NDArray[np.bytes_]) -> Identities:
        """`np.unique`, in place where nothing comes twice."""
        found.sort()
        repeats = found[1:] == found[:-1]
        return cls(found if not repeats.any() else found[np.concatenate([[True], ~repeats])])

    def __len__(self) -> int:
        return len(self.ordered)

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self.ordered), _AT_ONCE):
            yield from self._column(self.ordered[start : start + _AT_ONCE]).to_pylist()

    def __contains__(self, identity: object) -> bool:
        return isinstance(identity, bytes) and len(self) > 0 and bool(self.has([identity])[0])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AbstractSet):
            return NotImplemented
        return len(self) == len(other) and not self - other

    __hash__ = None  # type: ignore[assignment] # as of sets

    def __or__(self, other: AbstractSet[Any]) -> Identities:
        more = Identities.of(other) if not isinstance(other, Identities) else other
        fresh = more.ordered[~self._holds(more.ordered)]
        return Identities(np.insert(self.ordered, np.searchsorted(self.ordered, fresh), fresh))

    def __sub__(self, other: AbstractSet[Any]) -> Identities:
        less = Identities.of(other) if not isinstance(other, Identities) else other
        return Identities(self.ordered[~less._holds(self.ordered)])

    def has(self, identities: Sequence[bytes]) -> NDArray[np.bool_]:
        """Whether each of them is in the set: (n,)."""
        return self._holds(np.frombuffer(b"".join(identities), _DTYPE))

    def _holds(self, keys: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        places = np.searchsorted(self.ordered, keys)
        held = np.zeros(len(keys), bool)
        inside = places < len(self.ordered)
        held[inside] = self.ordered[places[inside]] == keys[inside]
        return held

    def smallest(self, count: int | None) -> Identities:
        """The `count` smallest, or all."""
        return Identities(self.ordered[:count])

    def last(self) -> bytes:
        """The greatest; empty if there is none."""
        return bytes(self.ordered[-1:].tobytes())

    def column(self) -> pa.Array:
        """All of them, in ascending order."""
        return self._column(self.ordered)

    @staticmethod
    def _column(ordered: NDArray[np.bytes_]) -> pa.Array:
        return pa.FixedSizeBinaryArray.from_buffers(_TYPE, len(ordered), [None, pa.py_buffer(ordered.tobytes())])


NO_IDENTITIES = Identities.of(())
