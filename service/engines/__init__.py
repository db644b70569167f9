"""Engines: what runs a version. This file imports nothing heavy, for `service.settings`."""

from typing import Literal

# `auto`: the LiteRT twin if a proved one is there, else TensorFlow.
EngineChoice = Literal["auto", "tensorflow", "litert"]
