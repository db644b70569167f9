"""Keys and ports of a real service with two worker processes."""

from pathlib import Path

from service.security.api_keys import new_key
from tests.integration.server import EAGER, free_port, running

Headers = dict[str, str]


class KeyFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.tables: dict[str, str] = {}

    def add(self, name: str, scope: str) -> Headers:
        """The headers of a new key, which is in the file."""
        key, digest = new_key()
        self.tables[name] = f'[keys.{name}]\nsha256 = "{digest}"\nscope = "{scope}"\n'
        self._write()
        return {"Authorization": f"Bearer {key}"}

    def remove(self, name: str) -> None:
        del self.tables[name]
        self._write()

    def _write(self) -> None:
        (draft := self.path.with_suffix(".draft")).write_text("".join(self.tables.values()))
        draft.rename(self.path)


def test_keys_and_ports_are_those_of_every_worker_also_when_the_file_changes(models: Path, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.toml")
    alice = keys.add("alice", "predict")
    settings = {"workers": 2, "admin": 1, "operations_port": free_port(), "poll_seconds": EAGER}
    with running(models, tmp_path / "log", api_keys_file=keys.path, **settings) as server:

        def wait_for_statuses(headers: Headers, status: int) -> None:
            """Of any worker."""
            server.wait_for(lambda: server.statuses(headers=headers) == {status}, f"not {status} everywhere")

        assert server.statuses() == {401}
        assert server.statuses(headers=alice) == {200}
        unload = "/v2/repository/models/regression/unload"
        assert server.request(unload, b"", headers=alice).status == 403
        for slashes in ("//", "/%2f"):
            assert server.request(f"{slashes}{unload[1:]}", b"", headers=alice).status == 400

        bob = keys.add("bob", "admin")
        wait_for_statuses(bob, 200)
        assert server.request(unload, b"", headers=bob).status == 200
        assert server.request("/v2/repository/models/regression/load", b"", headers=bob).status == 200
        keys.remove("alice")
        wait_for_statuses(alice, 401)
        assert server.statuses(headers=bob) == {200}

        assert server.request("/metrics", headers=bob).status == 404
        assert server.request("//metrics", headers=bob).status == 400
        assert server.request("/v1/models", headers=bob, port=server.operations_port).status == 404
        page = server.request("/metrics", port=server.operations_port).body.decode()
        assert 'serving_rejected_total{reason="forbidden"} 1.0' in page
        assert "serving_api_keys_valid 1.0" in page
        assert "serving_workers 2.0" in page
        assert not {name for name in ("alice", "bob") if name in page}
