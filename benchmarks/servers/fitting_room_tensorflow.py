"""This service, running the unconverted SavedModels by TensorFlow."""

from dataclasses import replace

from benchmarks.servers import fitting_room

SERVER = replace(
    fitting_room.SERVER,
    title="Fitting Room, TensorFlow engine",
    command=(*fitting_room.SERVER.command, "--engine", "tensorflow"),
)
