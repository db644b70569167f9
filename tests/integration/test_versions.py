"""Versions that appear, vanish, fail and replace each other; labels, canaries and shadows, over several workers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.inference.version import State
from tests.integration.models import VERSION_1, Model, asking, publish, write_policies
from tests.integration.server import PREDICT, Server, running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("versions")
    publish(VERSION_1, folder / "models" / "regression" / "1")
    # At this pace the workers see what is new at different times.
    with running(folder / "models", folder / "log", workers=2, engine="litert", admin=1, poll_seconds=0.2) as server:
        yield server


def test_highest_version_is_the_default(model: Model) -> None:
    model.publish(1)
    model.wait_for_state(1)
    model.publish(2)
    model.wait_for_default(2)
    assert model.server.statuses(model.version_path(1)) == {200}
    assert model.server.statuses(model.version_path(2)) == {200}
    assert model.requests(2) == 20
    shutil.rmtree(model.folder / "2")
    # Each worker polls by itself.
    model.wait_for_default(1)
    model.server.wait_for(lambda: model.server.statuses(model.version_path(2)) == {404}, "version 2 is still served")
    assert model.requests(2) == 0
    # Its counts come back with it.
    model.publish(2)
    model.wait_for_default(2)
    assert model.requests(2) == 20


def test_label_moves_and_takes_the_requests_with_it(model: Model) -> None:
    server, labels = model.server, f"[models.{model.name}.labels]"
    write_policies(server.models, f"{labels}\nstable = 1")
    model.publish(1)
    model.publish(2)
    model.wait_for_state(2)
    model.wait_for_default(1)
    write_policies(server.models, f"{labels}\nstable = 2\nold = 1")
    model.wait_for_default(2)
    server.wait_for(lambda: server.statuses(f"{model.path}/labels/old:predict") == {200}, "the label is not known")


def test_canary_gets_its_share_and_shadow_its_copies(model: Model) -> None:
    write_policies(
        model.server.models,
        f"[models.{model.name}.labels]\nstable = 1\ncanary = {{version = 2, share = 0.5}}\n"
        "next = {version = 3, shadow = 1.0}",
    )
    for number in 1, 2, 3:
        model.publish(number)
    for number in 1, 2, 3:
        model.wait_for_state(number)
    model.server.wait_for(lambda: model.default_versions(60) == {"1", "2"}, "no canary")
    assert {model.predict() for _ in range(40)} == {200}
    agreed = f'serving_shadow_total{{agrees="true",model="{model.name}",version="3"}}'
    model.server.wait_for(lambda: model.server.sample(agreed) == 40, "the shadow has not run all copies")
    stable, canary, shadow = (model.requests(number) for number in (1, 2, 3))
    assert stable > 0
    assert canary > 0
    assert (stable + canary, shadow) == (40, 0)


def exchange(new: Path, folder: Path) -> None:
    folder.rename(folder.with_name(f".old-{folder.name}-{new.name}"))
    new.rename(folder)


def test_no_request_is_lost_whichever_way_versions_replace_each_other(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for revision in "one", "two":
        shutil.copytree(VERSION_1, tmp_path / revision / "regression" / "1")
        write_policies(tmp_path / revision, "[default]\nversions = {latest = 1}")
    models.symlink_to(tmp_path / "one")
    with running(models, tmp_path / "log", workers=2, poll_seconds=0.2) as server, asking(server, PREDICT) as outcomes:
        model = Model(server, "regression")

        def wait_for_only(number: int) -> None:
            server.wait_for(lambda: model.states() == {number: State.AVAILABLE}, f"{number} is not the only one")

        model.publish(3)
        wait_for_only(3)
        # A model's folder, by two renames; and a lower number.
        shutil.copytree(VERSION_1, models / ".new" / "2")
        exchange(models / ".new", model.folder)
        wait_for_only(2)
        # The same number.
        shutil.copytree(VERSION_1, models / ".another")
        exchange(models / ".another", model.folder / "2")
        server.wait_until_logged("regression version 2 is replaced")
        # The whole folder is gone for a moment.
        models.unlink()
        server.wait_until_logged("cannot read the models folder (what is loaded goes on serving)")
        models.symlink_to(tmp_path / "two")
        shutil.rmtree(tmp_path / "one")
        wait_for_only(1)
        # One that cannot be loaded.
        (models / ".empty" / "5").mkdir(parents=True)
        exchange(models / ".empty", model.folder)
        model.failure(5, "holds no saved_model.pb")
        assert model.state(1) is State.AVAILABLE
        for path in "/v2/health/ready", "/v2/models/regression/ready":
            assert server.request(path).status == 200
    assert outcomes["200"] > 20
    assert set(outcomes) == {"200"}
