import pytest

from service.serving_config import ServingConfig
from tests.unit.service.fakes import any_shape, loaded_version, signature, tensor


@pytest.mark.parametrize(
    ("outputs", "labels", "expected"),
    [
        ({"y": tensor("DT_FLOAT", -1, 2)}, ("a", "b"), "y"),
        ({"y": tensor("DT_FLOAT", -1, 2)}, (), None),
        ({"y": tensor("DT_FLOAT", -1, 3)}, ("a", "b"), None),
        ({"y": tensor("DT_FLOAT", 2)}, ("a", "b"), None),
        ({"y": tensor("DT_FLOAT", -1, 1, 2)}, ("a", "b"), None),
        ({"y": any_shape("DT_FLOAT")}, ("a", "b"), None),
        ({"y": tensor("DT_FLOAT", -1, 2), "z": tensor("DT_FLOAT", -1, 8)}, ("a", "b"), "y"),
        ({"y": tensor("DT_FLOAT", -1, 2), "z": tensor("DT_FLOAT", -1, 2)}, ("a", "b"), None),
        ({"y": tensor("DT_STRING", -1, 2)}, ("a", "b"), None),
        ({"y": tensor("DT_STRING", -1, 2), "z": tensor("DT_FLOAT", -1, 2)}, ("a", "b"), "z"),
    ],
)
def test_label_output(outputs: dict[str, object], labels: tuple[str, ...], expected: str | None) -> None:
    of = signature({"x": any_shape("DT_FLOAT")}, outputs)  # type: ignore[arg-type]
    assert loaded_version(of, config=ServingConfig(labels=labels)).label_output("serving_default") == expected
