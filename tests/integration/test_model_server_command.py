"""`tensorflow_model_server` as its users start it, asked by REST."""

import shutil
import socket
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml

from tests.integration import server
from tests.integration.models import VERSION_1, publish
from tests.integration.server import DEADLINE_SECONDS, ROOT, TEN, Server, free_port, workers

COMMAND = "tensorflow_model_server"


def started(folder: Path, *flags: str, **settings: object) -> AbstractContextManager[Server]:
    """The command with a REST port."""
    port = free_port()
    arguments = [COMMAND, f"--port={free_port()}", f"--rest_api_port={port}", *flags]
    return server.started(folder, folder / "service.log", port, arguments, {}, **settings)


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


def versions(service: Server, model: str) -> list[str]:
    known = service.request(f"/v1/models/{model}").json().get("model_version_status", [])
    return [one["version"] for one in known if one["state"] == "AVAILABLE"]


def test_base_path_of_kserves_runtime_serves_its_latest_version(tmp_path: Path, base_path: Path) -> None:
    """By the arguments in docs/tensorflow-serving.md; the storage initializer lays the versions into one folder."""
    page = (ROOT / "docs/tensorflow-serving.md").read_text().partition("## KServe")[2]
    (container,) = yaml.safe_load(page.split("```")[1].removeprefix("yaml"))["containers"]
    assert container["command"] == ["/usr/bin/tensorflow_model_server"]
    values = dict(argument.removeprefix("--").split("=") for argument in container["args"])
    assert (values.pop("port"), values.pop("rest_api_port")) == ("9000", "8080")
    assert values.keys() == {"model_name", "model_base_path", "rest_api_timeout_in_ms"}
    given = values | {"model_name": "my-model", "model_base_path": str(base_path), "num_unload_threads": "2"}
    with started(tmp_path, *(f"--{name}={value}" for name, value in given.items())) as service:
        with socket.create_connection(("127.0.0.1", service.port), DEADLINE_SECONDS):
            pass
        for probe in ("/v2/health/live", "/v2/health/ready", "/v1/models/my-model", "/metrics"):
            assert service.request(probe).status == 200
        assert service.request("/v1/models/my-model:predict", TEN).status == 200
        assert versions(service, "my-model") == ["2"]
        service.wait_until_logged("--num_unload_threads has no effect")
        publish(VERSION_1, base_path / "3")
        service.wait_for(lambda: versions(service, "my-model") == ["3"], "version 3 does not take over")


def test_changed_config_file_is_followed(tmp_path: Path, base_path: Path) -> None:
    both = "model_version_policy { specific { versions: 1 versions: 2 } }"
    label = "version_labels { key: 'stable' value: 1 }"
    file = write_config(tmp_path, model_config("one", base_path))
    flags = [f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1"]
    with started(tmp_path, *flags, workers=2) as service:

        def wait_for(path: str, status: int) -> None:
            service.wait_for(lambda: service.statuses(f"/v1/models/{path}:predict", 6) == {status}, f"{path} stays")

        assert service.statuses("/v1/models/one:predict", 6) == {200}
        write_config(tmp_path, model_config("other", base_path))
        wait_for("other", 200)
        wait_for("one", 404)
        # What is invalid changes nothing.
        write_config(tmp_path, "config { name: 3 }")
        service.wait_until_logged('"model_config_list.config.name": expected a string in quotes')
        assert service.statuses("/v1/models/other:predict", 6) == {200}
        # A label may name a version once that is AVAILABLE.
        write_config(tmp_path, model_config("other", base_path, both + label))
        service.wait_until_logged("assign label to version 1 of model other, which is not currently available")
        assert service.request("/v1/models/other/labels/stable:predict", TEN).status == 400
        write_config(tmp_path, model_config("other", base_path, both))
        service.wait_for(lambda: versions(service, "other") == ["2", "1"], "not all versions are served")
        write_config(tmp_path, model_config("other", base_path, both + label))
        wait_for("other/labels/stable", 200)


def test_config_files_are_read_once_by_default(tmp_path: Path, base_path: Path) -> None:
    """A worker process that starts later knows the same content."""
    logging = (
        f'logging_config {{ log_collector_config {{ filename_prefix: "{tmp_path}/captured" }} '
        "sampling_config { sampling_rate: 1 } }"
    )
    file = write_config(tmp_path, model_config("one", base_path), model_config("other", base_path, logging))
    (tmp_path / "batching").write_text("max_batch_size { value: 128 }\nnum_batch_threads { value: 8 }\n")
    (tmp_path / "monitoring").write_text('prometheus_config: {\n  enable: true,\n  path: "/my/metrics"\n}\n')
    files = {"batching_parameters_file": "batching", "monitoring_config_file": "monitoring"}
    flags = ["--enable_batching", *(f"--{flag}={tmp_path / name}" for flag, name in files.items())]
    with started(tmp_path, f"--model_config_file={file}", *flags) as service:
        service.wait_until_logged("batching: num_batch_threads has no effect")
        for path in ("/my/metrics", "/my/metrics?x", "/monitoring/prometheus/metrics"):
            assert b"# TYPE" in service.request(path).body
        for model in ("one", "other"):
            assert service.request(f"/v1/models/{model}:predict", TEN).status == 200
        captured = tmp_path / "captured"
        service.wait_for(lambda: captured.exists() and bool(captured.read_text()), "nothing is captured")
        assert [line.count('"model":"other"') for line in captured.read_text().splitlines()] == [1]
        write_config(tmp_path, model_config("third", base_path))
        (worker,) = workers(service)
        worker.kill()
        service.wait_for(lambda: worker not in workers(service), "the worker does not end")
        service.wait_until_all_workers_answer(1)
        assert service.request("/v1/models").json() == {"models": ["one", "other"]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("improperly formatted file", "Error parsing text-format tensorflow.serving.ModelServerConfig: 1:1: "),
        (
            "model_config_list { config { name: 'm' base_path: '/m' model_platform: 'tensorflow' "
            "version_labels { key: 'stable' value: 1 } } }",
            "Request to assign label to version 1 of model m, which is not currently available for inference",
        ),
    ],
    ids=["no config", "label of no version"],
)
def test_bad_config_file_stops_the_start(config: str, message: str, tmp_path: Path) -> None:
    (file := tmp_path / "models.config").write_text(config)
    command = [sys.executable, "-m", "service", COMMAND, f"--model_config_file={file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert done.returncode not in (0, None)
    assert done.stderr.startswith("Failed to start server. Error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
