"""The ways in which one version takes the place of another, each in a model of its own that is asked all the time.

In a round, what is to take its place first cannot be loaded, which must change nothing; then it can. In the end the
whole models folder is exchanged, as git-sync and Kubernetes do.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.reload import versions

LATEST, LISTED, MOVED, LINKED, RENAMED = "latest", "listed", "moved", "linked", "renamed"
# Always version 1, each time of another folder.
REFILLED = "refilled"
# The old one goes before the new one is loaded: a gap, in which requests wait.
UNLOADED = "unloaded"
# Changes with the whole folder alone.
SYNCED = "synced"
WAYS = {
    LATEST: "latest = 1",
    LISTED: "changed lists",
    MOVED: "moved labels",
    LINKED: "models' links moved",
    RENAMED: "models' folders exchanged",
    REFILLED: "same numbers with new files",
    UNLOADED: "unloaded first",
    SYNCED: "whole folders exchanged",
}
SEAMLESS = (LATEST, LISTED, MOVED, LINKED, RENAMED, REFILLED)
# Those that cannot be loaded are numbered from here.
FIRST_BROKEN = 90


class Ways:
    """`models`: the models folder, a link. `made`: where versions lie that are ready to be copied."""

    def __init__(self, models: Path, made: Path) -> None:
        self.models = models
        self.made = made
        self._others = ""
        self._current = dict.fromkeys(WAYS, 1)
        self._drafts = 0

    def begin(self, others: str = "") -> None:
        """`others`: what else models.toml says."""
        for way in WAYS:
            if way == LINKED:
                self._link(way, 1, self.made / "1")
            else:
                versions.publish(self.made / "1", self.models / way / "1")
        self.write_policies(others)

    def number(self, way: str, number: int) -> int:
        """What version `number` is called there."""
        return 1 if way == REFILLED else number

    def put(self, way: str, number: int, source: Path) -> None:
        """A version in the place of the one that is there."""
        self._current[way] = number
        if way == LINKED:
            self._link(way, number, source)
        elif way == RENAMED:
            self._exchange(self.models / way, lambda folder: shutil.copytree(source, folder / str(number)))
        elif way == REFILLED:
            self._exchange(self.models / way / "1", lambda folder: shutil.copytree(source, folder))
        else:
            versions.publish(source, self.models / way / str(number))
            self.write_policies()

    def clean(self, way: str, number: int) -> None:
        """Takes away what is not to be loaded any more."""
        if way in (LATEST, LISTED, MOVED, UNLOADED):
            for version in (self.models / way).iterdir():
                if version.name != str(number):
                    shutil.rmtree(version)

    def sync(self, number: int) -> None:
        """A copy of everything, with another version of one model, takes the whole folder's place at once."""
        copy = self.models.with_name(f"revision-{number}")
        shutil.copytree(self.models, copy, symlinks=True)
        shutil.rmtree(copy / SYNCED)
        shutil.copytree(self.made / str(number), copy / SYNCED / str(number))
        before = self.models.resolve()
        versions.link(copy, self.models)
        shutil.rmtree(before)

    def write_policies(self, others: str | None = None) -> None:
        """`others`: what else it says; None: what it said before."""
        if others is not None:
            self._others = others
        listed, moved = self._current[LISTED], self._current[MOVED]
        versions.write_policies(
            self.models,
            f"{self._others}"
            f"[models.{LATEST}]\nversions = {{latest = 1}}\n"
            f"[models.{LISTED}]\nversions = [{listed}]\n"
            f"[models.{MOVED}]\nversions = []\nlabels = {{stable = {moved}}}\n"
            f"[models.{UNLOADED}]\nversions = {{latest = 1}}\nreplace = 'unload_first'\n",
        )

    def _link(self, way: str, number: int, source: Path) -> None:
        target = self._draft(way)
        shutil.copytree(source, target / str(number))
        versions.link(target, self.models / way)

    def _exchange(self, folder: Path, make: Callable[[Path], object]) -> None:
        """By two renames: for a moment it is not there."""
        new, old = self._draft(folder.name), self._draft(folder.name)
        make(new)
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old)

    def _draft(self, name: str) -> Path:
        """Beside the models folder, on the same file system."""
        self._drafts += 1
        return self.models.with_name(f"draft-{name}-{self._drafts}")
