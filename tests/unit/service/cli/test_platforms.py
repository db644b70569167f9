from pathlib import Path

import pytest

from service.cli.platforms import sagemaker_settings, settings
from service.settings import InvalidSetting, Settings

IMAGE = {"SERVING_PORT": "8501", "SERVING_GRPC_PORT": "8500", "SERVING_HOST": "0.0.0.0", "MODEL_BASE_PATH": "/models"}


@pytest.fixture(autouse=True)
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "links").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))


def save(*versions: Path) -> None:
    for version in versions:
        version.mkdir(parents=True)
        (version / "saved_model.pb").touch()


def folders(models: str) -> dict[str, list[str]]:
    return {model.name: sorted(version.name for version in model.iterdir()) for model in Path(models).iterdir()}


def sagemaker(base: Path, **variables: str) -> Settings:
    return sagemaker_settings({}, {**IMAGE, "SAGEMAKER_BASE_DIR": str(base), **variables})


@pytest.mark.parametrize(
    ("versions", "found"),
    [
        (["1", "02"], {"model": ["02", "1"]}),
        (["a/1", "b/3"], {"a": ["1"], "b": ["3"]}),
        (["export/Servo/1600000000"], {"Servo": ["1600000000"]}),
        # No version of its own.
        (["."], {"model": ["1"]}),
        # Folders within a version are no models.
        (["a/1", "a/1/assets/9"], {"a": ["1"]}),
    ],
)
def test_layouts(tmp_path: Path, versions: list[str], found: dict[str, list[str]]) -> None:
    save(*(tmp_path / "model" / version for version in versions))
    assert folders(sagemaker(tmp_path).models) == found
    assert folders(settings({}, {**IMAGE, "AIP_STORAGE_URI": str(tmp_path / "model")}).models) == found


def test_sagemaker(tmp_path: Path) -> None:
    save(tmp_path / "model" / "1")
    found = sagemaker(tmp_path)
    assert (found.sagemaker, found.port, found.grpc_port, found.admin) == ("on", 8080, 0, False)
    given = {"BIND_TO_PORT": "9090", "MODEL_SERVER_WORKERS": "3", "CONTAINER_LOG_LEVEL": "30"}
    given |= {"TFS_DEFAULT_MODEL_NAME": "x", "TFS_ENABLE_BATCHING": "true", "TFS_MAX_BATCH_SIZE": "64"}
    variables = {f"SAGEMAKER_{name}": value for name, value in given.items()}
    found = sagemaker(tmp_path, SERVING_MAX_BATCH_SIZE="16", **variables)
    assert (found.port, found.workers, found.default_model) == (9090, 3, "x")
    assert (found.independent_rows, found.max_batch_size, found.log_level) == (True, 16, "warning")


def test_sagemaker_without_models_of_its_own(tmp_path: Path) -> None:
    found = sagemaker(tmp_path, SAGEMAKER_MULTI_MODEL="True")
    assert (found.sagemaker, found.admin, folders(found.models)) == ("multi_model", True, {})
    assert sagemaker(tmp_path, SERVING_MODELS="/my/models").models == "/my/models"


@pytest.mark.parametrize(
    ("versions", "variables", "message"),
    [
        ([], {}, "/model: there is no SavedModel; expected <version>/saved_model.pb"),
        (["a/x/1", "b/x/1"], {}, "have the same name"),
        ([], {"SAGEMAKER_MULTI_MODEL": "yes"}, "SAGEMAKER_MULTI_MODEL='yes': expected true or false"),
        ([], {"SAGEMAKER_BIND_TO_PORT": "x"}, "SAGEMAKER_BIND_TO_PORT='x': expected a whole number"),
    ],
)
def test_sagemaker_cannot_start(tmp_path: Path, versions: list[str], variables: dict[str, str], message: str) -> None:
    save(*(tmp_path / "model" / version for version in versions))
    with pytest.raises(InvalidSetting, match=message):
        sagemaker(tmp_path, **variables)


def test_vertex_ai(tmp_path: Path) -> None:
    given = {**IMAGE, "AIP_HTTP_PORT": "8080", "AIP_PREDICT_ROUTE": "/v1/a:predict", "AIP_HEALTH_ROUTE": "/v1/a"}
    found = settings({}, given)
    assert (found.port, found.predict_path, found.health_path) == (8080, "/v1/a:predict", "/v1/a")
    assert found.models == "/models"
    assert settings({}, {"AIP_HTTP_PORT": "8080"}).host == "0.0.0.0"
    assert settings({"port": "9"}, given).port == 9
    with pytest.raises(InvalidSetting, match="AIP_HTTP_PORT='x': expected a whole number"):
        settings({}, {**given, "AIP_HTTP_PORT": "x"})
    with pytest.raises(InvalidSetting, match=r"AIP_STORAGE_URI='.*/none': there is no SavedModel"):
        settings({}, {**given, "AIP_STORAGE_URI": str(tmp_path / "none")})
