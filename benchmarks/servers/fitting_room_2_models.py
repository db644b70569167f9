"""The same with the two models alone: what a hundred more are measured by."""

from dataclasses import replace

from benchmarks.servers import fitting_room

SERVER = replace(fitting_room.SERVER, title="Fitting Room, 2 models", yardstick="2 models")
