"""`tensorflow_model_server` as its users start it, asked by REST."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml

from tests.integration.models import VERSION_1, publish
from tests.integration.server import DEADLINE_SECONDS, ROOT, TEN, Server, free_port, workers

COMMAND = (sys.executable, "-m", "service", "tensorflow_model_server")


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SERVING_", "MODEL_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "SERVING_WORKERS": "1", "SERVING_MAX_QUEUE_MS": "30000", **variables}


@contextmanager
def started(
    folder: Path,
    *flags: str,
    command: Sequence[str] = COMMAND,
    is_ready: bool = True,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Server]:
    """The command with a REST port; stopped with SIGTERM."""
    port, log = free_port(), folder / "service.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, f"--port={free_port()}", f"--rest_api_port={port}", *flags],
            env=(environ := environment(**variables)),
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    server = Server(folder, port, process, log, port)
    try:
        if is_ready:
            server.wait_until_all_workers_answer(int(environ["SERVING_WORKERS"]))
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_SECONDS)


def failure(*flags: str) -> str:
    """What the command prints when it does not start."""
    done = subprocess.run(
        [*COMMAND, *flags], env=environment(), capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    return done.stderr


def model_config(name: str, base_path: Path, more: str = "") -> str:
    return f'config {{ name: "{name}", base_path: "{base_path}", model_platform: "tensorflow" {more} }}\n'


def write_config(folder: Path, *configs: str) -> Path:
    (draft := folder / "draft").write_text("model_config_list: {\n" + "".join(configs) + "}\n")
    return draft.rename(folder / "models.config")


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    """With the versions 1 and 2."""
    for number in (1, 2):
        shutil.copytree(VERSION_1, tmp_path / "anywhere" / str(number))
    return tmp_path / "anywhere"


def versions(server: Server, model: str) -> list[str]:
    known = server.request(f"/v1/models/{model}").json().get("model_version_status", [])
    return [one["version"] for one in known if one["state"] == "AVAILABLE"]


def test_a_base_path_serves_its_latest_version(tmp_path: Path, base_path: Path) -> None:
    with started(tmp_path, f"--model_base_path={base_path}", "--enable_batching", "--num_unload_threads=2") as server:
        assert server.request("/v1/models/default:predict", TEN).status == 200
        assert versions(server, "default") == ["2"]
        assert server.request("/v1/models").json() == {"models": ["default"]}
        server.wait_until_logged("--num_unload_threads has no effect")
        publish(VERSION_1, base_path / "3")
        server.wait_for(lambda: versions(server, "default") == ["3"], "version 3 does not take over")


def test_kserve_runtime(tmp_path: Path) -> None:
    """By the arguments in docs/tensorflow-serving.md; the storage initializer lays the versions into one folder."""
    page = (ROOT / "docs/tensorflow-serving.md").read_text().partition("## KServe")[2]
    (container,) = yaml.safe_load(page.split("```")[1].removeprefix("yaml"))["containers"]
    assert container["command"] == ["/usr/bin/tensorflow_model_server"]
    values = dict(argument.removeprefix("--").split("=") for argument in container["args"])
    assert values == {
        "model_name": "{{.Name}}",
        "port": "9000",
        "rest_api_port": "8080",
        "model_base_path": "/mnt/models",
        "rest_api_timeout_in_ms": "60000",
    }
    shutil.copytree(VERSION_1, tmp_path / "mnt" / "models" / "0001")
    given = {"model_name": "my-model", "model_base_path": f"{tmp_path}/mnt/models", "rest_api_timeout_in_ms": "60000"}
    with started(tmp_path, *(f"--{name}={value}" for name, value in given.items())) as server:
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS):
            pass
        for probe in ("/v2/health/live", "/v2/health/ready", "/v1/models/my-model", "/metrics"):
            assert server.request(probe).status == 200
        assert server.request("/v1/models/my-model:predict", TEN).status == 200


def test_the_entrypoint_takes_the_flags_of_both(tmp_path: Path, base_path: Path) -> None:
    command = (sys.executable, "-m", "service")
    variables = {"MODEL_NAME": "anywhere", "MODEL_BASE_PATH": str(tmp_path)}
    with started(tmp_path, "--rest_api_timeout_in_ms=5000", command=command, variables=variables) as server:
        assert versions(server, "anywhere") == ["2"]


def test_models_of_a_config_file(tmp_path: Path, base_path: Path) -> None:
    specific = "model_version_policy { specific { versions: 1 versions: 2 } }"
    labels = "version_labels { key: 'stable' value: 1 }"
    file = write_config(tmp_path, model_config("one", base_path), model_config("other", base_path, specific + labels))
    flags = [f"--model_config_file={file}", "--allow_version_labels_for_unavailable_models"]
    with started(tmp_path, *flags, variables={"SERVING_WORKERS": "2"}) as server:
        assert {model: versions(server, model) for model in ("one", "other")} == {"one": ["2"], "other": ["2", "1"]}
        # No label answers requests without a version.
        assert server.request("/v1/models/other/metadata").json()["model_spec"]["version"] == "2"
        assert server.request("/v1/models/other/labels/stable/metadata").json()["model_spec"]["version"] == "1"
        assert server.statuses("/v1/models/other/labels/stable:predict") == {200}
        assert server.request("/v1/models/other/labels/none:predict", TEN).status == 400


def test_a_changed_config_file_is_followed(tmp_path: Path, base_path: Path) -> None:
    file = write_config(tmp_path, model_config("one", base_path))
    flags = [f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1"]
    with started(tmp_path, *flags, variables={"SERVING_WORKERS": "2"}) as server:

        def serves(model: str) -> bool:
            return server.statuses(f"/v1/models/{model}:predict", times=6) == {200}

        assert serves("one")
        write_config(tmp_path, model_config("other", base_path))
        server.wait_for(lambda: serves("other"), "the other model is not served")
        server.wait_for(
            lambda: server.statuses("/v1/models/one:predict", times=6) == {404}, "what is not listed is served on"
        )
        # What is invalid changes nothing.
        write_config(tmp_path, "config { name: 3 }")
        server.wait_until_logged('"model_config_list.config.name": expected a string in quotes')
        assert serves("other")
        # A label may name a version once that is AVAILABLE.
        both = "model_version_policy { all {} }"
        label = "version_labels { key: 'canary' value: 1 }"
        write_config(tmp_path, model_config("other", base_path, both + label))
        server.wait_until_logged(
            "Request to assign label to version 1 of model other, which is not currently available"
        )
        assert server.request("/v1/models/other/labels/canary:predict", TEN).status == 400
        write_config(tmp_path, model_config("other", base_path, both))
        server.wait_for(lambda: versions(server, "other") == ["2", "1"], "not all versions are served")
        write_config(tmp_path, model_config("other", base_path, both + label))
        server.wait_for(
            lambda: server.statuses("/v1/models/other/labels/canary:predict", times=6) == {200}, "the label is unknown"
        )


def test_a_config_file_is_read_once_by_default(tmp_path: Path, base_path: Path) -> None:
    """A worker process that starts later knows the same content."""
    file = write_config(tmp_path, model_config("one", base_path))
    with started(tmp_path, f"--model_config_file={file}") as server:
        write_config(tmp_path, model_config("other", base_path))
        (worker,) = workers(server)
        worker.kill()
        server.wait_for(lambda: worker not in workers(server), "the worker does not end")
        server.wait_until_all_workers_answer(1)
        assert server.request("/v1/models").json() == {"models": ["one"]}


def test_files_for_batching_and_monitoring(tmp_path: Path, base_path: Path) -> None:
    (tmp_path / "batching").write_text("max_batch_size { value: 128 }\nnum_batch_threads { value: 8 }\n")
    (tmp_path / "monitoring").write_text('prometheus_config: {\n  enable: true,\n  path: "/my/metrics"\n}\n')
    flags = ["--enable_batching", "--batching_parameters_file=batching", "--monitoring_config_file=monitoring"]
    with started(tmp_path, f"--model_base_path={base_path}", *flags) as server:
        for path in ("/my/metrics", "/my/metrics?x", "/monitoring/prometheus/metrics"):
            assert b"# TYPE" in server.request(path).body
        server.wait_until_logged("batching: num_batch_threads has no effect")


def test_requests_are_captured_where_the_config_says(tmp_path: Path, base_path: Path) -> None:
    logging = (
        f'logging_config {{ log_collector_config {{ filename_prefix: "{tmp_path}/captured" }} '
        "sampling_config { sampling_rate: 1 } }"
    )
    file = write_config(tmp_path, model_config("one", base_path), model_config("other", base_path, logging))
    with started(tmp_path, f"--model_config_file={file}") as server:
        assert server.request("/v1/models/one:predict", TEN).status == 200
        assert server.request("/v1/models/other:predict", TEN).status == 200
        captured = tmp_path / "captured"
        server.wait_for(lambda: captured.exists() and bool(captured.read_text()), "nothing is captured")
        assert [line.count('"model":"other"') for line in captured.read_text().splitlines()] == [1]


def test_a_base_path_without_versions_is_not_ready(tmp_path: Path) -> None:
    with started(tmp_path, f"--model_base_path={tmp_path}/none", is_ready=False) as server:
        server.wait_until_logged("'default' is not served: its base path cannot be read: No such file or directory")
        server.wait_for(lambda: answers(server, 503), "it is ready")
        shutil.copytree(VERSION_1, tmp_path / "draft")
        (tmp_path / "none").mkdir()
        (tmp_path / "draft").rename(tmp_path / "none" / "1")
        server.wait_for(lambda: answers(server, 200), "it is not ready")


def answers(server: Server, status: int) -> bool:
    try:
        return server.request("/v2/health/ready").status == status
    except OSError:
        return False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Both server_options.model_base_path and server_options.model_config_file are empty!"),
        (["--model_config_file=/none"], "/none: there is no such file"),
    ],
)
def test_bad_flags_stop_the_start(flags: list[str], message: str) -> None:
    assert failure(*flags).startswith(f"Failed to start server. Error: {message}")


def test_bad_config_files_stop_the_start(tmp_path: Path) -> None:
    (file := tmp_path / "models.config").write_text("improperly formatted file")
    message = failure(f"--model_config_file={file}")
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig: 1:1: " in message
    assert str(file) in message
    write_config(tmp_path, model_config("m", tmp_path, "version_labels { key: 'stable' value: 1 }"))
    message = failure(f"--model_config_file={file}")
    assert "Request to assign label to version 1 of model m, which is not currently available for inference" in message


def test_version() -> None:
    done = subprocess.run([*COMMAND, "--version"], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("TensorFlow ModelServer: ")
