import pytest

from service.errors import InvalidRequest
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import loaded_version, signature, tensor
from tests.unit.service.scored import WITHOUT_SCORE, scored_version


def test_unknown_signature() -> None:
    with pytest.raises(InvalidRequest) as raised:
        scored_version().signature("other")
    assert str(raised.value) == "Serving signature key \"other\" not found; model has 'scored', 'serving_default'"


def test_default_signature_runs_the_scored_one() -> None:
    assert [scored_version().signature_to_run(name) for name in (DEFAULT_SIGNATURE, "other")] == ["scored", "other"]
    assert scored_version(WITHOUT_SCORE).signature_to_run(DEFAULT_SIGNATURE) == DEFAULT_SIGNATURE


@pytest.mark.parametrize(
    ("dtype", "shape", "takes_strings", "takes_pictures"),
    [("DT_FLOAT", (), False, False), ("DT_STRING", (), True, False), ("DT_UINT8", (8, 8, 3), False, True)],
)
def test_kinds_of_inputs(dtype: str, shape: tuple[int, ...], takes_strings: bool, takes_pictures: bool) -> None:
    loaded = loaded_version(signature({"x": tensor(dtype, -1, *shape)}))
    assert (loaded.takes_strings, loaded.takes_pictures) == (takes_strings, takes_pictures)
