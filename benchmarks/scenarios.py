"""What is compared: servers, scenarios (a table each) and targets (bounds on figures, or on ratios within one run)."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.servers import (
    Server,
    bentoml_tensorflow,
    fastapi_tensorflow,
    fitting_room,
    gunicorn_hello,
    in_process,
    mlserver_tensorflow,
    tutorial,
)

SERVERS: Mapping[str, Server] = {
    **fitting_room.SERVERS,
    "gunicorn_hello": gunicorn_hello.SERVER,
    "tutorial": tutorial.SERVER,
    "fastapi_tensorflow": fastapi_tensorflow.SERVER,
    "mlserver_tensorflow": mlserver_tensorflow.SERVER,
    "bentoml_tensorflow": bentoml_tensorflow.SERVER,
    "in_process": in_process.SERVER,
}
OURS = ("fitting_room",)
MANY = ("fitting_room_100_models", "fitting_room_2_models")
CNN = ("fitting_room_cnn", "fitting_room_cnn_unbatched")
HELLO, FASTAPI, MLSERVER, BENTOML = "gunicorn_hello", "fastapi_tensorflow", "mlserver_tensorflow", "bentoml_tensorflow"
# Slow to start and slow under load: `--quick` does without.
SLOW = ("tutorial", MLSERVER, BENTOML)


@dataclass(frozen=True)
class Target:
    """A bound on a figure of a scenario's first server, or of `server`: itself, ÷ `to`, or (− `less`) ÷ `per`.

    `to` and `less` are a server of the same scenario, or "scenario/server/figure". `aim` lies beyond the limit.
    """

    text: str
    figure: str
    limit: float
    to: str = ""
    less: str = ""
    per: int = 1
    at_least: bool = False
    aim: float | None = None
    server: str = ""

    def value(self, of: float, other: float = 0.0) -> float:
        return of / other if self.to else (of - other) / self.per


@dataclass(frozen=True)
class Scenario:
    """`servers`: in the table's order. `sends`: json, v2_binary, png or jpeg, with `pictures` in each request.

    `held`: server and load have a core each; else they share two. `start`: the start and the memory are measured, each
    server alone, instead of requests.
    """

    title: str
    servers: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    sends: str = "json"
    pictures: int = 1
    connections: int = 16
    workers: int = 1
    held: bool = True
    start: bool = False


SCENARIOS: Mapping[str, Scenario] = {
    "start": Scenario(
        "Start to first prediction, and memory",
        ("fitting_room", "fitting_room_tensorflow", HELLO, "tutorial", FASTAPI, MLSERVER, BENTOML),
        (
            Target("seconds to the first prediction", "start_seconds", 0.7),
            Target("PSS of one worker, MB", "pss_mb", 90),
            Target(
                "seconds to the first prediction by TensorFlow", "start_seconds", 1.5, server="fitting_room_tensorflow"
            ),
        ),
        start=True,
    ),
    "start_two_workers": Scenario(
        "Start and memory with two workers",
        OURS,
        (Target("PSS of one more worker, MB", "pss_mb", 45, less="start/fitting_room/pss_mb"),),
        workers=2,
        start=True,
    ),
    "many_models_start": Scenario(
        "A hundred small models more: start and memory, one worker",
        MANY,
        # More by one: of one model there are two versions.
        (Target("PSS of each model more, MB", "pss_mb", 1, less=MANY[1], per=fitting_room.MORE_MODELS + 1),),
        start=True,
    ),
    "one_picture": Scenario(
        "One picture as JSON, 16 connections, one worker",
        ("fitting_room", HELLO, "tutorial", FASTAPI, MLSERVER, BENTOML),
        (
            Target("CPU a request ÷ (a)", "cpu_us", 0.45, HELLO, aim=0.3),
            Target("CPU a request ÷ (c)", "cpu_us", 1 / 5, FASTAPI, aim=1 / 7),
            Target("CPU a request ÷ MLServer", "cpu_us", 1 / 8, MLSERVER, aim=1 / 10),
            Target("CPU a request ÷ BentoML", "cpu_us", 1 / 8, BENTOML, aim=1 / 10),
        ),
        held=False,
    ),
    "one_picture_held": Scenario(
        "The same, the server held to one core and the load to the other",
        ("fitting_room", HELLO, FASTAPI),
        (Target("CPU a request ÷ (a), each held to a core", "cpu_us", 0.45, HELLO, aim=0.3),),
    ),
    "one_connection": Scenario(
        "One picture as JSON, one connection, one worker",
        ("fitting_room", HELLO, FASTAPI, MLSERVER, BENTOML),
        (
            Target("p50 ÷ p50 of (a) at 16 connections", "p50_ms", 0.4, "one_picture/gunicorn_hello/p50_ms"),
            Target("p99 ÷ its own p50", "p99_ms", 5, "one_connection/fitting_room/p50_ms"),
        ),
        connections=1,
    ),
    "many_models": Scenario(
        "A hundred small models more: one picture as JSON to one of the others, one connection, one worker",
        MANY,
        (
            Target(
                "p50 of one model's requests ÷ without the others (1.1: no more than the noise)", "p50_ms", 1.1, MANY[1]
            ),
        ),
        connections=1,
    ),
    "batch_json": Scenario(
        "32 pictures in one JSON request, one worker",
        ("fitting_room", "in_process", FASTAPI, MLSERVER, BENTOML),
        (Target("pictures/s ÷ LiteRT in process", "pictures_per_second", 0.25, "in_process", at_least=True),),
        pictures=32,
    ),
    "batch_json_unheld": Scenario("The same, server and load on both cores", OURS, pictures=32, held=False),
    "batch_json_two_workers": Scenario(
        "The same with two workers",
        OURS,
        (
            Target(
                "pictures/s ÷ one worker's",
                "pictures_per_second",
                1.5,
                "batch_json_unheld/fitting_room/pictures_per_second",
                at_least=True,
            ),
        ),
        pictures=32,
        held=False,
        workers=2,
    ),
    "batch_binary": Scenario(
        "32 pictures in one v2 binary request, one worker",
        ("fitting_room", "in_process", MLSERVER),
        (Target("pictures/s ÷ LiteRT in process", "pictures_per_second", 0.7, "in_process", at_least=True),),
        sends="v2_binary",
        pictures=32,
    ),
    "png": Scenario(
        "A 28×28 PNG as it is, one worker",
        ("fitting_room", "in_process"),
        (Target("CPU a picture ÷ in process", "cpu_us", 1.3, "in_process"),),
        sends="png",
    ),
    "jpeg": Scenario(
        "A 400×533 JPEG as it is, one worker",
        ("fitting_room", "in_process"),
        (Target("CPU a picture ÷ in process", "cpu_us", 1.5, "in_process"),),
        sends="jpeg",
    ),
    # One connection: of sixteen requests of 50 ms, those under way at the end would weigh on the few that are counted.
    "body_16_kb": Scenario("A JSON body of 16 KB, one connection, one worker", OURS, pictures=4, connections=1),
    "body_1_mb": Scenario(
        "A JSON body of 1 MB, one connection, one worker",
        OURS,
        (Target("CPU a KB ÷ that of a 16 KB body", "cpu_us_per_kb", 1.2, "body_16_kb/fitting_room/cpu_us_per_kb"),),
        pictures=240,
        connections=1,
    ),
    "tensorflow_engine": Scenario(
        "One picture as JSON, the unconverted SavedModel by TensorFlow, one worker",
        ("fitting_room_tensorflow", FASTAPI),
        (Target("CPU a request ÷ (c)", "cpu_us", 1 / 3, FASTAPI),),
    ),
    "cnn": Scenario(
        "A small CNN by TensorFlow, one picture as JSON, 64 connections, one worker",
        CNN,
        (Target("requests/s ÷ batching off", "requests_per_second", 1.5, CNN[1], at_least=True),),
        connections=64,
    ),
    "cnn_one_connection": Scenario(
        "The same CNN, one connection",
        CNN,
        (Target("p50 ÷ batching off (1.1: no more than the noise)", "p50_ms", 1.1, CNN[1]),),
        connections=1,
    ),
    "two_workers": Scenario(
        "One picture as JSON, 16 connections, two workers",
        ("fitting_room", HELLO, FASTAPI, MLSERVER, BENTOML),
        (
            Target("requests/s ÷ (c)", "requests_per_second", 3, FASTAPI, at_least=True),
            Target("requests/s ÷ MLServer", "requests_per_second", 8, MLSERVER, at_least=True),
            Target("requests/s ÷ BentoML", "requests_per_second", 8, BENTOML, at_least=True),
            Target(
                "requests/s for each core that the load left, ÷ one worker's (0.9: twice the cores give 1.8 ×)",
                "requests_per_free_core",
                0.9,
                "one_picture_held/fitting_room/requests_per_free_core",
                at_least=True,
            ),
        ),
        workers=2,
    ),
}
