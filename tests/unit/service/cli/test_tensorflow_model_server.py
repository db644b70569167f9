import re
from dataclasses import fields
from pathlib import Path

import pytest

from service.cli.tensorflow_model_server import (
    FLAGS,
    UsageError,
    is_meant,
    parse,
    settings_of,
    usage,
    versions,
    with_defaults_of_image,
)
from service.settings import Settings

ONE_MODEL = ("--model_base_path=/models/x",)


def settings(*flags: str, environ: dict[str, str] | None = None) -> Settings:
    return settings_of(parse((*ONE_MODEL, *flags)), environ or {})[0]


def warnings(*flags: str) -> list[str]:
    return settings_of(parse((*ONE_MODEL, *flags)), {})[1]


def fault(*flags: str) -> str:
    with pytest.raises(UsageError) as raised:
        settings_of(parse(flags), {})
    return str(raised.value)


def write(folder: Path, text: str) -> str:
    (file := folder / "file.config").write_text(text)
    return str(file)


def test_every_flag_is_parsed() -> None:
    known = {spec.name for spec in fields(Settings)}
    assert len(FLAGS) == 48
    for name, flag in FLAGS.items():
        assert set(flag.settings) <= known
        assert flag.settings or flag.note
        is_bool = isinstance(flag.default, bool)
        text = str(flag.default).lower() if is_bool else str(flag.default)
        assert parse([f"--{name}={text}"]) == {name: flag.default}
        assert parse([f"--{name}"] if is_bool else [f"--{name}", text]) == {name: is_bool or flag.default}
        assert f"--{name} " in usage()
        if not isinstance(flag.default, str):
            message = f"Couldn't interpret value some for flag {name}; expected "
            assert fault(f"--{name}=some").startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot=8500"], "unknown argument: --prot=8500; did you mean --port?"),
        (["--zzz"], "unknown argument: --zzz; --help lists the flags"),
        (["-port=8500"], "unknown argument: -port=8500"),
        (["--enable_batching", "false"], "unknown argument: false"),
        (["--enable_batching="], "Couldn't interpret value  for flag enable_batching"),
        (["--port"], "--port has no value"),
        (["--port=2147483648"], "Couldn't interpret value 2147483648 for flag port"),
        (["--port=8500x"], "Couldn't interpret value 8500x for flag port"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str) -> None:
    assert message in fault(*arguments)


def test_last_of_a_name_counts_and_int64_flags_take_large_numbers() -> None:
    name = "load_retry_interval_micros"
    assert parse([f"--{name}=1", f"--{name}=9000000000"]) == {name: 9_000_000_000}


def test_flags_are_told_apart_by_their_names() -> None:
    assert is_meant(["--port=1", "--rest_api_port", "2"])
    assert not is_meant(["--port=1", "--models=/my_models"])
    assert not is_meant(["predict", "my_model"])


def test_version_names_both() -> None:
    assert re.fullmatch(r"TensorFlow ModelServer: \S+ \(fitting-room\)\nTensorFlow Library: [\w. ]+", versions())


def test_image_puts_its_defaults_before_the_flags() -> None:
    ports = ["--port=8500", "--rest_api_port=8501"]
    plain = [*ports, "--model_name=model", "--model_base_path=/models/model"]
    assert with_defaults_of_image(["--rest_api_port=9000"], {}) == [*plain, "--rest_api_port=9000"]
    named = with_defaults_of_image([], {"MODEL_NAME": "x", "MODEL_BASE_PATH": "/m"})
    assert named == [*ports, "--model_name=x", "--model_base_path=/m/x"]


def test_defaults_are_ours_but_for_some() -> None:
    ours = Settings()
    found = settings()
    assert (found.model_name, found.base_path, found.host) == ("default", "/models/x", "0.0.0.0")
    assert (found.admin, found.max_body_bytes, found.max_queue_ms) == (True, 2**31 - 1, 30_000)
    for name in ("load_retries", "load_retry_interval_micros", "threads", "request_timeout_ms", "warm_up"):
        assert getattr(found, name) == getattr(ours, name)


@pytest.mark.parametrize(
    ("flags", "port", "grpc_port"),
    [
        ((), 8500, 0),
        (("--rest_api_port=8501",), 8501, 8500),
        (("--port=9000", "--rest_api_port=9001"), 9001, 9000),
        (("--port=9000", "--rest_api_port=9000"), 9000, 0),
        (("--port=0", "--rest_api_port=9001", "--grpc_socket_path=/tmp/s"), 9001, 0),
    ],
)
def test_ports(flags: tuple[str, ...], port: int, grpc_port: int) -> None:
    found = settings(*flags, environ={"SERVING_PORT": "1", "SERVING_GRPC_PORT": "2"})
    assert (found.port, found.grpc_port) == (port, grpc_port)


@pytest.mark.parametrize(
    ("flag", "setting", "value"),
    [
        ("--model_name=x", "model_name", "x"),
        ("--model_base_path=gs://a/b", "base_path", "gs://a/b"),
        ("--rest_api_enable_cors_support", "cors_origins", "*"),
        ("--rest_api_enable_cors_support=false", "cors_origins", ""),
        ("--enable_batching", "independent_rows", True),
        ("--max_num_load_retries=-3", "load_retries", 0),
        ("--load_retry_interval_micros=-1", "load_retry_interval_micros", 1),
        ("--file_system_poll_wait_seconds=5", "poll_seconds", 5.0),
        ("--file_system_poll_wait_seconds=-1", "poll_seconds", 0.0),
        ("--tensorflow_session_parallelism=3", "tensorflow_intra_op_parallelism", 3),
        ("--tensorflow_session_parallelism=3", "tensorflow_inter_op_parallelism", 3),
        ("--enable_model_warmup=false", "warm_up", False),
        ("--grpc_channel_arguments=grpc.max_connection_age_ms=2500", "grpc_max_connection_age_seconds", 2),
        ("--grpc_channel_arguments=grpc.max_connection_age_ms=2147483647", "grpc_max_connection_age_seconds", 0),
        ("--grpc_channel_arguments=a=b,grpc.max_receive_message_length=1000", "max_body_bytes", 1000),
        ("--grpc_channel_arguments=grpc.max_receive_message_length=-1", "max_body_bytes", 2**31 - 1),
    ],
)
def test_flags_become_settings(flag: str, setting: str, value: object) -> None:
    found = getattr(settings(flag), setting)
    assert (found, type(found)) == (value, type(value))


def test_more_special_source_counts() -> None:
    found = settings("--tensorflow_session_parallelism=3", "--tensorflow_inter_op_parallelism=2")
    assert (found.tensorflow_intra_op_parallelism, found.tensorflow_inter_op_parallelism) == (0, 2)
    found = settings("--rest_api_num_threads=7", environ={"SERVING_THREADS": "5", "SERVING_HOST": "127.0.0.1"})
    assert (found.threads, found.host) == (7, "127.0.0.1")
    found = settings("--model_config_file=/c", "--model_config_file_poll_wait_seconds=60")
    assert (found.model_config_file, found.base_path, found.model_config_file_poll_wait_seconds) == ("/c", "", 60)


def test_flag_without_effect_is_warned_of_once() -> None:
    (warning,) = warnings("--num_unload_threads=3", "--num_unload_threads=4", "--rest_api_num_threads=7")
    assert warning.startswith("--num_unload_threads has no effect: ")
    assert warnings() == []
    (warning,) = warnings("--grpc_channel_arguments=grpc.so_reuseaddr=1,grpc.max_connection_age_ms=2000")
    assert "grpc.so_reuseaddr has no effect" in warning


ALL_PARALLELISM = [f"--tensorflow_{kind}_parallelism=1" for kind in ("session", "intra_op", "inter_op")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_base_path="], "Both server_options.model_base_path and server_options.model_config_file are empty!"),
        (["--port=0"], "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."),
        (["--port=0", "--grpc_socket_path=/tmp/s"], "expected --port or --rest_api_port"),
        (["--use_alts_credentials", "--ssl_config_file=x"], "Either use_alts_credentials must be false or ssl_config"),
        (["--use_alts_credentials"], "there is no ALTS"),
        (["--batching_parameters_file=x"], "set without setting server_options.enable_batching to true."),
        (ALL_PARALLELISM, "You cannot configure all."),
        (["--model_base_path=x"], "Expected model default to have an absolute path or URI; got base_path()=x"),
        (["--model_name=a/b"], "name is 'a/b'"),
        (["--rest_api_port=99999"], "--rest_api_port='99999': expected at most 65535"),
        (["--grpc_channel_arguments=grpc.max_connection_age_ms"], "expected a whole number"),
        (["--monitoring_config_file=/none"], "/none cannot be read: No such file or directory"),
    ],
)
def test_flags_that_cannot_be_are_refused(flags: list[str], message: str) -> None:
    assert message in fault(*ONE_MODEL, *flags)


def test_batching_parameters(tmp_path: Path) -> None:
    text = "max_batch_size { value: 128 } batch_timeout_micros { value: 500 } max_enqueued_batches { value: 10 }\n"
    text += "num_batch_threads { value: 8 }\nallowed_batch_sizes: [64, 128]\n"
    flags = ("--enable_batching", f"--batching_parameters_file={write(tmp_path, text)}")
    found = settings(*flags)
    assert (found.max_batch_size, found.batch_timeout_micros, found.max_queue_size) == (128, 500, 1280)
    ignored = [re.sub(".*: (\\w+) has no effect: .*", r"\1", warning) for warning in warnings(*flags)]
    assert ignored == ["num_batch_threads", "allowed_batch_sizes"]
    write(tmp_path, "max_batch_size { value: 128 } max_execution_batch_size { value: 32 }")
    assert settings(*flags).max_batch_size == 32


def test_monitoring_config(tmp_path: Path) -> None:
    for path, expected in (("/monitoring/prometheus/metrics", ""), ("/my/metrics", "/my/metrics")):
        file = write(tmp_path, f'prometheus_config: {{ enable: true, path: "{path}" }}')
        found = settings(f"--monitoring_config_file={file}")
        assert (found.metrics_path, found.tensorflow_metrics) == (expected, True)


def test_ssl_config(tmp_path: Path) -> None:
    text = "server_key: 'key\\n' 'more' server_cert: 'cert' custom_ca: 'ca'"
    found = settings(f"--ssl_config_file={write(tmp_path, text + 'client_verify: true')}")
    texts = [Path(path).read_text() for path in (found.tls_key, found.tls_cert, found.tls_client_ca)]
    assert texts == ["key\nmore", "cert", "ca"]
    assert settings(f"--ssl_config_file={write(tmp_path, text)}").tls_client_ca == ""


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("ssl_config_file", "server_cert: 'c'", "server_key is missing"),
        ("ssl_config_file", "server_key: 'k' server_cert: 'c' client_verify: true", "expected custom_ca"),
        ("ssl_config_file", "\nserver_key: 3", "tensorflow.serving.SSLConfig: 2:13: "),
        ("monitoring_config_file", "prometheus_config { path: 'metrics' }", "expected a path as /monitoring/metrics"),
        (
            "batching_parameters_file",
            "max_batch_size { value: 0 }",
            "--batching_parameters_file='0': expected at least",
        ),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, flag: str, text: str, message: str) -> None:
    assert message in fault(*ONE_MODEL, "--enable_batching", f"--{flag}={write(tmp_path, text)}")
