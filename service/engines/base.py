"""What every engine offers."""

from collections.abc import Mapping
from typing import Protocol

from service.tensors.json import Array
from service.tensors.signature import Signature


class LoadError(Exception):
    """A version cannot be loaded; the message says why, and what to do about it."""


class Engine(Protocol):
    """Safe to use from several threads. What it holds is given back once nobody refers to it any more."""

    name: str
    signatures: Mapping[str, Signature]
    # On the thread that asks, and on no other: its processor time is what a run costs.
    runs_on_caller: bool

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output of the signature, by name.

        `inputs` holds an array for each of the signature's inputs, of its type and of a shape that it declares.

        Raises:
            InvalidRequest: the model itself refuses these values.
        """

    def release(self) -> None:
        """Gives back what it keeps for runs of other sizes than the last one's."""
