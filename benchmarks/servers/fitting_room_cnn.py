"""This service with a model that is worth batching, by TensorFlow."""

from dataclasses import replace

from benchmarks.servers import fitting_room

SERVER = replace(
    fitting_room.SERVER,
    title="Fitting Room, CNN",
    prepare=("-m", "benchmarks.cnn", "{folder}"),
)
