from pathlib import Path

import pytest

from service.drift.card import METRICS_FILE, Card, read_card
from service.serving_config import ASSETS


@pytest.mark.parametrize(
    ("content", "card"),
    [
        ('\ufeff{"accuracy": 0.9, "validation_ece": 0.01, "loss": null}', Card(0.9, 0.01)),
        ('{"accuracy": 1, "validation_ece": "low"}', Card(1, None)),
        ('{"accuracy": 1.5, "validation_ece": true}', Card()),
        ("[0.9]", Card()),
        ("no JSON", Card()),
    ],
)
def test_card_is_what_metrics_state(tmp_path: Path, content: str, card: Card) -> None:
    (tmp_path / ASSETS).mkdir()
    (tmp_path / ASSETS / METRICS_FILE).write_text(content)
    assert read_card(tmp_path) == card


def test_without_metrics_nothing_is_stated(tmp_path: Path) -> None:
    assert read_card(tmp_path) == Card()
