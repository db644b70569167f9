from pathlib import Path
from typing import Any

import pytest

from service.drift.reference import InvalidReference, read_reference
from tests.unit.service.watched_for_drift import REFERENCE, UNIFORM, write_reference


def with_x(**changed: Any) -> dict[str, Any]:
    return REFERENCE | {"inputs": {"x": UNIFORM | changed}}


def test_version_may_have_no_reference(tmp_path: Path) -> None:
    assert read_reference(tmp_path) is None


def test_reference_is_read(tmp_path: Path) -> None:
    write_reference(tmp_path, REFERENCE)
    reference = read_reference(tmp_path)
    assert reference is not None
    assert (reference.rows, reference.held_out_rows) == (10_000, 10_000)
    assert reference.inputs["x"].edges == tuple(range(1, 10))
    assert reference.labels == {"low": 0.5, "high": 0.5}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "truncated"),
        (b"\xff\xff", "malformed"),
        ([], "Expected `object`"),
        ({"inputs": {}}, "missing required field `rows`"),
        (REFERENCE | {"rows": 0}, "$.rows"),
        (REFERENCE | {"inputs": ["x"]}, "$.inputs"),
        (REFERENCE | {"baseline": 1}, "baseline"),
        (with_x(edges=None), "$.inputs[...].edges"),
        (with_x(edges=[1.0, 2.0]), "2 edges and 10 shares"),
        (with_x(edges=[1.0] * 9), "expected 'edges' that are finite and increase"),
        (with_x(shares=[0.2] * 10), "the shares add up to 2"),
        (with_x(shares=[-0.1, *[0.1] * 8, 0.3]), "expected numbers of at least 0"),
        (with_x(edges=[float(edge) for edge in range(255)], shares=[1 / 256] * 256), "$.inputs[...].edges"),
        (REFERENCE | {"labels": {"low": 0.5}}, "the shares add up to 0.5"),
        (REFERENCE | {"labels": None}, "'held_out_rows', 'labels' and 'confidence' go together"),
        ({part: REFERENCE[part] for part in ("rows", "inputs", "labels")}, "go together"),
        (b'{"rows": 1, "inputs": {"x": {"edges": [1e999], "shares": [0.5, 0.5]}}}', "out of range"),
    ],
)
def test_invalid_reference_says_why(tmp_path: Path, content: Any, why: str) -> None:
    write_reference(tmp_path, content)
    with pytest.raises(InvalidReference) as caught:
        read_reference(tmp_path)
    assert why in str(caught.value)


def test_folder_is_invalid(tmp_path: Path) -> None:
    (tmp_path / "assets.extra" / "reference.json").mkdir(parents=True)
    with pytest.raises(InvalidReference, match="directory"):
        read_reference(tmp_path)
