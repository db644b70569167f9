"""What is measured: a table each. A new entry is a new table, and names the servers that take part."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    title: str
    # Names of modules in benchmarks/servers, in the order of the table.
    servers: tuple[str, ...]
    # json, v2_binary, png or jpeg: a key of Server.routes.
    sends: str = "json"
    # How many in one request.
    pictures: int = 1
    connections: int = 16
    workers: int = 1
    # To a core of its own; else server and load share both cores, as the scheduler has it.
    held: bool = True
    # Measures the start and the memory, each server alone, instead of requests.
    start: bool = False


OURS = ("fitting_room",)
MANY = ("fitting_room_100_models", "fitting_room_2_models")
PEERS = ("mlserver_tensorflow", "bentoml_tensorflow")
# Slow to start and slow under load: `--quick` does without.
SLOW = ("tutorial", *PEERS)

SCENARIOS: Mapping[str, Scenario] = {
    # First, because each server must be alone: what it shares with another would count half.
    "start": Scenario(
        "Start to first prediction, and memory",
        ("fitting_room", "fitting_room_tensorflow", "gunicorn_hello", "tutorial", "fastapi_tensorflow", *PEERS),
        start=True,
    ),
    "start_two_workers": Scenario("Start and memory with two workers", OURS, workers=2, start=True),
    "many_models_start": Scenario("A hundred small models more: start and memory, one worker", MANY, start=True),
    "one_picture": Scenario(
        "One picture as JSON, 16 connections, one worker",
        ("fitting_room", "gunicorn_hello", "tutorial", "fastapi_tensorflow", *PEERS),
        held=False,
    ),
    "one_picture_held": Scenario(
        "The same, the server held to one core and the load to the other",
        ("fitting_room", "gunicorn_hello", "fastapi_tensorflow"),
    ),
    "one_connection": Scenario(
        "One picture as JSON, one connection, one worker",
        ("fitting_room", "gunicorn_hello", "fastapi_tensorflow", *PEERS),
        connections=1,
    ),
    "many_models": Scenario(
        "A hundred small models more: one picture as JSON to one of the others, one connection, one worker",
        MANY,
        connections=1,
    ),
    "batch_json": Scenario(
        "32 pictures in one JSON request, one worker",
        ("fitting_room", "in_process", "fastapi_tensorflow", *PEERS),
        pictures=32,
    ),
    "batch_json_unheld": Scenario("The same, server and load on both cores", OURS, pictures=32, held=False),
    "batch_json_two_workers": Scenario("The same with two workers", OURS, pictures=32, held=False, workers=2),
    "batch_binary": Scenario(
        "32 pictures in one v2 binary request, one worker",
        ("fitting_room", "in_process", "mlserver_tensorflow"),
        sends="v2_binary",
        pictures=32,
    ),
    "png": Scenario("A 28×28 PNG as it is, one worker", ("fitting_room", "in_process"), sends="png"),
    "jpeg": Scenario("A 400×533 JPEG as it is, one worker", ("fitting_room", "in_process"), sends="jpeg"),
    # One connection: of sixteen requests of 50 ms, those under way at the end would weigh on the few that are counted.
    "body_16_kb": Scenario("A JSON body of 16 KB, one connection, one worker", OURS, pictures=4, connections=1),
    "body_1_mb": Scenario("A JSON body of 1 MB, one connection, one worker", OURS, pictures=240, connections=1),
    "tensorflow_engine": Scenario(
        "One picture as JSON, the unconverted SavedModel by TensorFlow, one worker",
        ("fitting_room_tensorflow", "fastapi_tensorflow"),
    ),
    "cnn": Scenario(
        "A small CNN by TensorFlow, one picture as JSON, 64 connections, one worker",
        ("fitting_room_cnn", "fitting_room_cnn_unbatched"),
        connections=64,
    ),
    "cnn_one_connection": Scenario(
        "The same CNN, one connection", ("fitting_room_cnn", "fitting_room_cnn_unbatched"), connections=1
    ),
    "two_workers": Scenario(
        "One picture as JSON, 16 connections, two workers",
        ("fitting_room", "gunicorn_hello", "fastapi_tensorflow", *PEERS),
        workers=2,
    ),
}
