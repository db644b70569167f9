import pytest

from service.stores.errors import StoreError
from service.stores.layout import Layout

MODELS = Layout("x", is_one_model=False, is_free=False)
BASE_PATH = Layout("x", is_one_model=True, is_free=False)
FREE = Layout("x", is_one_model=False, is_free=True)


@pytest.mark.parametrize(
    ("layout", "paths", "found"),
    [
        (MODELS, ["m/1/saved_model.pb", "m/1/variables/a", "models.toml", "m/README"], {("m", 1)}),
        (MODELS, ["m/007/saved_model.pb", "m/next/saved_model.pb", ".m/1/saved_model.pb"], {("m", 7)}),
        (MODELS, ["1/saved_model.pb", "saved_model.pb"], set()),
        (BASE_PATH, ["1/saved_model.pb", "README", "docs/x"], {("x", 1)}),
        (FREE, ["saved_model.pb", "variables/1/saved_model.pb"], {("x", 1)}),
        (FREE, ["2/saved_model.pb", "3/model.tflite", "README"], {("x", 2), ("x", 3)}),
        (FREE, ["m/1/saved_model.pb"], {("m", 1)}),
    ],
)
def test_versions(layout: Layout, paths: list[str], found: set[tuple[str, int]]) -> None:
    assert layout.versions(paths).keys() == found


def test_only_a_models_folder_has_policies() -> None:
    assert [layout.has_policies for layout in (MODELS, BASE_PATH, FREE)] == [True, False, False]


def test_files_of_a_version() -> None:
    paths = ["m/1/saved_model.pb", "m/1/variables/a"]
    assert MODELS.versions(paths) == {("m", 1): {"saved_model.pb": paths[0], "variables/a": paths[1]}}


@pytest.mark.parametrize("path", ["m/1/../../x", "m/1//x", "m/1/./x", "m/1/x\0"])
def test_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(StoreError, match="leads out of its version's folder"):
        MODELS.versions([path])
