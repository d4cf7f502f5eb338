"""A training run's view of the other processes that take part in it: here, that there are none."""

from collections.abc import Callable
from typing import Any, Self, TypeVar

from numpy.typing import ArrayLike

from fastmlp.packing import Input
from fastmlp.samples import check_input

_Result = TypeVar("_Result")


class Team:
    """One process alone. `fastmlp.distributed.Ranks` is a team of several, which overrides all methods.

    Attributes
    ----------
    rank : int
        The number of this process, from 0.
    """

    rank = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        """Wait until all processes have ended the run; if one fails, all do."""

    def interrupted(self, error: KeyboardInterrupt) -> None:
        """Let all processes end the run where this one does."""

    def agree(self, facts: dict[str, object]) -> None:
        """Raise ValueError on all processes if these facts, by their names, differ."""

    def most(self, code: int) -> int:
        """Return the largest of all processes' codes."""
        return code

    def least(self, number: int) -> int:
        """Return the smallest of all processes' numbers."""
        return number

    def from_first(self, make: Callable[[], _Result]) -> _Result:
        """Call a function on the first process; return its result on all."""
        return make()

    def matrix(
        self, name: str, X: Input, width: int, dtype: Any, batch_size: int | None = None, *, finite: bool = True
    ) -> Any:
        """Return all processes' samples, packed: see `fastmlp.samples.check_input`."""
        return check_input(name, X, width, dtype, batch_size, finite=finite)

    def joined(self, name: str, values: ArrayLike | None) -> Any:
        """Return all processes' targets or weights of the samples of the last call of `matrix`, one after the other."""
        return values
