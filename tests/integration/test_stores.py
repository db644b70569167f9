"""Models in stores: from upload to AVAILABLE, and whatever goes wrong there, while requests are answered."""

import io
import itertools
import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from service.inference.version import State
from service.stores.errors import StoreError
from service.stores.location import parse
from service.stores.sources import source_of
from tests.integration.models import VERSION_1, Model, asking
from tests.integration.server import Server, is_fetcher, running
from tests.integration.stores import BUCKET, Fault, Store, make_certificate, serving

ROOT = "all/models"
URL = f"s3://{BUCKET}/{ROOT}"
SECRETS = ("AKIDNOBODY", "verysecret", "signed-query", "passw0rd", "hf_token")

Serve = Callable[..., AbstractContextManager[Server]]
numbers = itertools.count()


@pytest.fixture(scope="module")
def shared_store() -> Iterator[Store]:
    with serving(Store()) as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", store.url)
        patch.setenv("AWS_ACCESS_KEY_ID", SECRETS[0])
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[1])
        yield store


@pytest.fixture(scope="module")
def service(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fetched")
    with running(folder, folder.parent / "service.log", models=URL, store_folder=folder) as server:
        yield server


@pytest.fixture
def store(shared_store: Store) -> Iterator[Store]:
    yield shared_store
    shared_store.fault = lambda _key: None
    shared_store.delete("")


@pytest.fixture
def model(store: Store, service: Server) -> Model:
    """A model of the test's own in the module's service, version 1 of which is served."""
    model = Model(service, f"m{next(numbers)}")
    store.upload(VERSION_1, f"{ROOT}/{model.name}/1")
    model.wait_for_state(1)
    return model


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Starts a service of the test's own."""

    def start(url: str, **settings: object) -> AbstractContextManager[Server]:
        folder = tmp_path / "fetched"
        return running(folder, tmp_path / "service.log", models=url, store_folder=folder, **settings)

    return start


def failures(server: Server, kind: str) -> float:
    return server.sample(f'serving_store_failures_total{{kind="{kind}"}}')


def wait_for_failure(server: Server, kind: str, before: float = 0) -> None:
    server.wait_for(lambda: failures(server, kind) > before, f"no failure of the kind {kind}")


def wait_for_listings(server: Server, store: Store) -> None:
    listings = store.count()
    server.wait_for(lambda: store.count() > listings + 4, "the store is not listed")


def fetcher(server: Server) -> psutil.Process:
    (found,) = filter(is_fetcher, psutil.Process(server.process.pid).children())
    return found


def archive_of(version: Path, name: str) -> bytes:
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            tar.add(version, name)
        return out.getvalue()


def test_new_version_takes_over_without_a_failed_request(store: Store, model: Model) -> None:
    with asking(model.server, f"{model.path}:predict") as outcomes:
        store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
        model.wait_for_default(2)
        store.delete(f"{ROOT}/{model.name}/1/")
        model.server.wait_for(lambda: model.states() == {2: State.AVAILABLE}, "version 1 is not gone")
    assert outcomes.keys() == {"200"}
    assert not (model.folder / "1").exists()
    assert model.server.sample("serving_store_failing") == 0
    assert model.server.sample("serving_store_fetched_bytes_total") > 0


def test_half_upload_is_not_taken(store: Store, model: Model) -> None:
    store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
    graph = store.objects.pop(f"{ROOT}/{model.name}/2/saved_model.pb")
    wait_for_listings(model.server, store)
    assert set(model.states()) == {1}
    store.objects[f"{ROOT}/{model.name}/2/saved_model.pb"] = graph
    model.wait_for_state(2)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(403), "denied"),
        (Fault(404), "missing"),
        (Fault(503), "throttled"),
        (Fault(500), "unreachable"),
    ],
    ids=["403", "404", "503", "500"],
)
def test_store_that_fails_leaves_everything_serving(store: Store, model: Model, fault: Fault, kind: str) -> None:
    before = failures(model.server, kind)
    with asking(model.server, f"{model.path}:predict") as outcomes:
        store.fault = lambda key: None if key else fault
        wait_for_failure(model.server, kind, before)
        assert model.server.sample("serving_store_failing") == 1
        store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
        store.fault = lambda _key: None
        model.wait_for_state(2)
    assert outcomes.keys() == {"200"}
    model.server.wait_for(lambda: model.server.sample("serving_store_failing") == 0, "it still fails")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(Fault(cut=10), "unreachable"), (Fault(403), "denied"), (Fault(404), "missing"), (Fault(412), "changed")],
    ids=["cut off", "403", "404", "changed"],
)
def test_fetch_that_fails_is_tried_again(store: Store, model: Model, fault: Fault, kind: str) -> None:
    before = failures(model.server, kind)
    store.fault = lambda key: fault if key.endswith("2/saved_model.pb") else None
    store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
    wait_for_failure(model.server, kind, before)
    assert not (model.folder / "2").exists()
    store.fault = lambda _key: None
    model.wait_for_state(2)
    assert model.predict() == 200


def test_slow_store_holds_up_nobody(store: Store, model: Model) -> None:
    store.fault = lambda key: Fault(pause=1) if key.endswith("2/saved_model.pb") else None
    with asking(model.server, f"{model.path}:predict") as outcomes:
        store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
        model.wait_for_default(2)
    assert outcomes.keys() == {"200"}


def test_version_that_changes_while_it_is_fetched_is_fetched_anew(store: Store, model: Model) -> None:
    readme = f"{ROOT}/{model.name}/2/assets.extra/README.md"

    def change(key: str) -> None:
        if key == readme and store.objects[key] != b"another":
            store.objects[key] = b"another"

    before = failures(model.server, "changed")
    store.fault = change
    store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
    model.wait_for_state(2)
    assert (model.folder / "2/assets.extra/README.md").read_bytes() == b"another"
    assert failures(model.server, "changed") > before


def test_changed_version_is_loaded_again(store: Store, model: Model) -> None:
    store.objects[f"{ROOT}/{model.name}/1/assets.extra/README.md"] = b"another"
    model.server.wait_until_logged(f"{model.name} version 1 is replaced")
    assert model.predict() == 200


def test_policies_beside_the_models_are_followed(store: Store, model: Model) -> None:
    before = failures(model.server, "refused")
    store.objects[f"{ROOT}/models.toml"] = f"[models.{model.name}]\nversions = [1]\n".encode()
    model.server.wait_for((model.server.models / "models.toml").exists, "models.toml is not fetched")
    store.objects[f"{ROOT}/models.toml"] = b"[models.m]\nversions = 'none'\n"
    wait_for_failure(model.server, "refused", before)
    store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
    wait_for_listings(model.server, store)
    assert set(model.states()) == {1}


def test_fetching_process_that_dies_is_replaced(store: Store, model: Model) -> None:
    before = fetcher(model.server)
    before.send_signal(signal.SIGKILL)
    model.server.wait_until_logged("the process that fetches models ended (signal 9)")
    store.upload(VERSION_1, f"{ROOT}/{model.name}/2")
    model.wait_for_state(2)
    assert fetcher(model.server).pid != before.pid


def test_nothing_of_a_credential_is_shown(model: Model) -> None:
    text = model.server.log.read_text() + model.server.request("/metrics").body.decode()
    assert not [secret for secret in SECRETS if secret in text]


def test_it_ends_with_the_first_process_and_starts_with_what_it_fetched(store: Store, serve: Serve) -> None:
    store.upload(VERSION_1, f"{ROOT}/m/1")
    store.upload(VERSION_1, f"{ROOT}/m/2")
    with serve("models", base_path=f"{URL}/m") as server:
        assert Model(server, "m").states() == {2: State.AVAILABLE}
        process = fetcher(server)
        os.kill(server.process.pid, signal.SIGKILL)
        process.wait(30)
    store.fault = lambda _key: Fault(503)
    with serve("models", base_path=f"{URL}/m") as server:
        assert Model(server, "m").states() == {2: State.AVAILABLE}


def test_archive_by_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(Store(), certificate) as store:
        store.objects["some/house.tar.gz"] = archive_of(VERSION_1, "1")
        url = store.url.replace("://", f"://user:{SECRETS[3]}@") + f"/some/house.tar.gz?sig={SECRETS[2]}"
        with serve(url) as server:
            model = Model(server, "house")
            assert model.states() == {1: State.AVAILABLE}
            with asking(server, f"{model.path}:predict") as outcomes:
                store.objects["some/house.tar.gz"] = b"no archive"
                wait_for_failure(server, "refused")
                store.objects["some/house.tar.gz"] = archive_of(VERSION_1, "2")
                model.wait_for_default(2)
                server.wait_for(lambda: model.states() == {2: State.AVAILABLE}, "version 1 is not gone")
            assert outcomes.keys() == {"200"}
            text = server.log.read_text() + server.request("/metrics").body.decode()
            assert not [secret for secret in SECRETS if secret in text]


def test_google_cloud_storage(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    with serving(Store()) as store:
        store.upload(VERSION_1, f"{ROOT}/m/1")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.url)
        with serve(f"gs://{BUCKET}/{ROOT}") as server:
            model = Model(server, "m")
            with asking(server, f"{model.path}:predict") as outcomes:
                store.upload(VERSION_1, f"{ROOT}/m/2")
                model.wait_for_default(2)
            assert outcomes.keys() == {"200"}


def test_hugging_face_repository(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    with serving(Store()) as store:
        store.upload(VERSION_1, "")
        monkeypatch.setenv("HF_ENDPOINT", store.url)
        monkeypatch.setenv("HF_TOKEN", SECRETS[4])
        with serve("hf://some/house") as server:
            with asking(server, "/v1/models/house/versions/1:predict") as outcomes:
                store.objects["assets.extra/README.md"] = b"another"
                server.wait_until_logged("house version 1 is replaced")
            assert outcomes.keys() == {"200"}
            assert SECRETS[4] not in server.log.read_text()


def fetched(url: str, store: Store, tmp_path: Path, change: Callable[[], None] = lambda: None) -> bytes:
    """The first file of a repository or archive, without a service. `change`: called between listing and fetch."""
    location = parse(url)
    assert location is not None
    source = source_of(location, {"HF_ENDPOINT": store.url, "HF_TOKEN": SECRETS[4]})
    target = tmp_path / f"file{next(numbers)}"
    file = source.listing()[0]
    change()
    source.fetch(file, target, lambda _size: None)
    return target.read_bytes()


def test_credentials_are_not_taken_to_another_host(tmp_path: Path) -> None:
    with serving(Store()) as store, serving(Store()) as other:
        store.objects["a/b"] = b"moved"
        other.objects["a/b"] = b"moved"
        store.fault = lambda key: Fault(302, location=f"{other.url}/a/b") if key else None
        assert fetched("hf://some/house", store, tmp_path) == b"moved"
        assert store.requests[-1][1]["Authorization"] == f"Bearer {SECRETS[4]}"
        assert "Authorization" not in other.requests[-1][1]


def test_large_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    with serving(Store()) as store:
        store.objects["a"] = b"12345"
        with pytest.raises(StoreError, match="a is damaged: its SHA-256 is another"):
            fetched("hf://some/house", store, tmp_path, lambda: store.objects.update(a=b"54321"))


def test_retry_after_is_kept(tmp_path: Path) -> None:
    with serving(Store()) as store:
        store.fault = lambda _key: Fault(503, retry_after="7")
        with pytest.raises(StoreError) as raised:
            fetched("hf://some/house", store, tmp_path)
    assert (raised.value.kind, raised.value.retry_after) == ("throttled", 7)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(302, location="http://localhost:1/a.tar"), "it redirects to a connection that is not encrypted"),
        (Fault(401), "it denies access .HTTP 401."),
        (Fault(cut=2), "the connection was cut off"),
    ],
)
def test_archives_that_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, message: str
) -> None:
    certificate = make_certificate(tmp_path)
    with serving(Store(objects={"a.tar": b"12345"}), certificate) as store:
        with pytest.raises(StoreError, match="its certificate is not trusted"):
            fetched(f"{store.url}/a.tar", store, tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetched(f"{store.url}/a.tar", store, tmp_path) == b"12345"
        store.fault = lambda _key: fault
        with pytest.raises(StoreError, match=message):
            fetched(f"{store.url}/a.tar", store, tmp_path)
