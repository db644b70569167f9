"""What every engine offers."""

from collections.abc import Mapping
from typing import Protocol

from service.signature import Signature
from service.tensors import Array


class LoadError(Exception):
    """A version cannot be loaded; the message says why, and what to do about it."""


class Engine(Protocol):
    """Safe to use from several threads. What it holds is given back once nobody refers to it any more."""

    name: str
    signatures: Mapping[str, Signature]

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output of the signature, by name.

        `inputs` holds an array for each of the signature's inputs, of its type and of a shape that it declares.

        Raises:
            InvalidRequest: the model itself refuses these values.
        """
