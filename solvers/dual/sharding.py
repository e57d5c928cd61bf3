"""Blocks placed on several devices, of one process or of many: JAX's own sharding, nothing else.

Every block is one global array an operand, sharded over a one-dimensional mesh of all devices; the
kernels are the same, compiled for that sharding, and XLA exchanges what they sum. Processes hold
their own queries only. They run the same passes at the same prices, since all of them see the same
sums; where they differ in how many queries of a family they have, the fewer are padded.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clearopt.errors import DeclarationError
from clearopt.program import Program
from clearopt.solvers.dual.blocks import ArraySource, Block, Columns, Group, padded
from clearopt.solvers.dual.kernels import ROW
from clearopt.validation import FloatArray

_PLACES = 2**15  # of a block, on one device
AXIS = "queries"


class _Stretch(NamedTuple):
    """One family in all processes."""

    kind: Any
    example: Columns  # of one query, to pad with
    blocks: int


class ShardedSource:
    """The queries of all processes, on all devices.

    Args:
        program: of this process.
        coefficient: (n,) or () what the row charges this process's queries.
        devices: to use, as many of each process; all that JAX knows by default.
        places: of a block on one device, a multiple of `ROW`.

    Raises:
        DeclarationError: the processes do not use equally many devices.
    """

    def __init__(
        self,
        program: Program,
        coefficient: FloatArray,
        *,
        devices: Sequence[Any] | None = None,
        places: int | None = None,
    ) -> None:
        import jax

        self._jax: Any = jax
        chosen = list(jax.devices()) if devices is None else list(devices)
        # Each process's shards lie together, so that its part of an array is one stretch.
        chosen.sort(key=lambda device: (device.process_index, device.id))
        each = [
            sum(device.process_index == process for device in chosen)
            for process in range(jax.process_count())
        ]
        if len(set(each)) > 1 or not each[0]:
            raise DeclarationError(
                f"devices: the processes use {', '.join(map(str, each))} of them; every process "
                "must use equally many, and at least one"
            )
        of = self._jax.sharding
        mesh = of.Mesh(np.array(chosen), (AXIS,))
        self.sharding = of.NamedSharding(mesh, of.PartitionSpec(AXIS))
        self.rank = jax.process_index()
        self.local = ArraySource(program, coefficient, places or _PLACES)
        self.size = sum(self.gathered(program.n))
        fullest = -(-max(self.gathered(program.n)) // each[0])
        on_one_device = places or min(_PLACES, max(ROW, -(-fullest // ROW) * ROW))
        self._places = on_one_device * each[0]  # in this process
        self._none = self.placed(np.zeros(0))
        self._stretches = self._plan()
        self._blocks = list(self._placed_blocks())

    # ------------------------------------------------------------------ as a source
    def blocks(self) -> Iterator[Block]:
        return iter(self._blocks)

    def sample(self, size: int) -> list[tuple[Group, float]]:
        share = max(1, size * self.local.size // self.size)
        return self.local.sample(share) if self.local.size else []

    def gathered(self, thing: Any) -> list[Any]:
        """By `process_allgather`, as bytes: what is gathered is small."""
        if self._jax.process_count() == 1:
            return [thing]
        from jax.experimental.multihost_utils import process_allgather

        data = np.frombuffer(pickle.dumps(thing), dtype=np.uint8)
        sizes = np.ravel(process_allgather(np.array([data.size], dtype=np.int32)))
        filled = np.zeros(int(sizes.max()), dtype=np.uint8)
        filled[: data.size] = data
        everything = np.asarray(process_allgather(filled))
        return [
            pickle.loads(row[:size].tobytes())
            for row, size in zip(everything, sizes.tolist(), strict=True)
        ]

    def placed(self, taken: FloatArray) -> Any:
        filled = np.full(self._places, np.nan)
        filled[: taken.size] = taken
        return self._put(filled)

    def nothing_taken(self, block: Block) -> Any:
        return self._none

    # ------------------------------------------------------------------ placing
    def _put(self, array: NDArray[Any]) -> Any:
        """This process's part (places,) of a global array."""
        with self._jax.enable_x64(True):
            return self._jax.make_array_from_process_local_data(
                self.sharding, np.ascontiguousarray(array)
            )

    def _plan(self) -> list[_Stretch]:
        """The families of all processes, in the order in which the processes name them."""
        mine = [
            (part.kind, part.columns(np.zeros(1, dtype=np.intp)).full(1), part.size)
            for part in self.local.parts
        ]
        if len({kind for kind, _, _ in mine}) < len(mine):
            raise DeclarationError(
                "two utilities of one family: apply the family once, to all its queries, so that "
                "the processes agree on what they pass over"
            )
        stretches: dict[Any, tuple[Columns, int]] = {}
        whole = False
        for process in self.gathered(mine):
            for kind, example, size in process:
                blocks = -(-size // self._places)
                known = stretches.get(kind)
                stretches[kind] = (
                    (example, blocks) if known is None else (known[0], max(known[1], blocks))
                )
                whole |= example.integer is not None
        false = np.zeros(1, dtype=np.bool_)
        return [
            _Stretch(
                kind,
                example._replace(integer=false) if whole and example.integer is None else example,
                blocks,
            )
            for kind, (example, blocks) in stretches.items()
        ]

    def _placed_blocks(self) -> Iterator[Block]:
        parts = {part.kind: part for part in self.local.parts}
        for kind, example, blocks in self._stretches:
            part = parts.get(kind)
            size = 0 if part is None else part.size
            for number in range(blocks):
                start = min(number * self._places, size)
                stop = min(start + self._places, size)
                count = stop - start
                index: slice | NDArray[np.intp] = slice(0, 0)
                host, filled = example.take(slice(0, 0)), example
                if part is not None and count:
                    index = part.index_of(start, stop)
                    host = part.columns(slice(start, stop)).full(count)
                    if example.integer is not None and host.integer is None:
                        host = host._replace(integer=np.zeros(count, dtype=np.bool_))
                    filled = host
                filled, _ = padded(filled, max(count, 1), self._places)
                valid = np.arange(self._places) < count
                yield Block(kind, filled.map(self._put), self._put(valid), host, count, index)
