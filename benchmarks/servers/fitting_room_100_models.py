"""This service with a hundred small models beside the two, and two versions of one of these."""

from dataclasses import replace

from benchmarks.servers import fitting_room

SERVER = replace(
    fitting_room.SERVER,
    title="Fitting Room, 100 models more",
    prepare=("-m", "benchmarks.hundred_models", "{folder}"),
)
