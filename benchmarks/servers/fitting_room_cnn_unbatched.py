"""The same, each request by itself: what batching is measured by."""

from dataclasses import replace

from benchmarks.servers import fitting_room_cnn

SERVER = replace(
    fitting_room_cnn.SERVER,
    title="Fitting Room, CNN, batching off",
    yardstick="batching off",
    command=(*fitting_room_cnn.SERVER.command, "--max-batch-size", "1"),
)
