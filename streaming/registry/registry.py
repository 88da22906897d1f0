"""The registry: a folder of bundles, and CURRENT, which names the one to serve and those promoted before it."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import dropwhile

from pydantic import BaseModel, ConfigDict

from conf.answers import command
from conf.background import in_background
from conf.errors import (
    AlreadyExistsError,
    AppError,
    BundleError,
    ConflictError,
    ModelError,
    NoModelError,
    NotFoundError,
    StorageError,
)
from streaming.registry.bundle import (
    MANIFEST,
    Bundle,
    BundleManifest,
    find_given_up,
    give_up,
    is_sealed,
    is_version,
    made_at,
    read_bundle_manifest,
)
from streaming.storage.documents import create_or_replace, read_document
from streaming.storage.folder import Folder

CURRENT = "CURRENT"
_NO_VERSION = ""  # in CURRENT, as if there were none: no store of ours deletes a file only if nobody has changed it
_UNFINISHED = timedelta(hours=1)  # a younger bundle may belong to a fit that is alive
_KEEP_GIVEN_UP = timedelta(days=1)


class Current(BaseModel):
    """The content of CURRENT: the version to serve, and those promoted before it, the latest first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    previous: tuple[str, ...] = ()
    promoted_at: datetime


class Registry:
    """The models in one folder."""

    def __init__(self, models: Folder) -> None:
        self._models = models
        self._ahead: Future[Bundle] | None = None

    def current(self) -> str:
        """The version to serve.

        Raises:
            NoModelError: nothing was ever promoted.
            ModelError: CURRENT cannot be read.
        """
        version = self.current_or_none()
        if version is None:
            raise NoModelError(
                f"no model in {self._models.root}: fit one with "
                f"{command('batch_fit', 'fit', '--input', 'PICTURES', '--models', self._models.root)}"
            )
        return version

    def current_or_none(self) -> str | None:
        """The version to serve, if one was ever promoted."""
        state = self.history()
        return state.version if state else None

    def history(self) -> Current | None:
        """The version to serve, with those before it; None if nothing was ever promoted.

        Raises:
            ModelError: CURRENT cannot be read.
        """
        return self._state()[0]

    def versions(self) -> list[BundleManifest]:
        """The manifests of all bundles, oldest first; their files are not checked.

        Raises:
            BundleError: a manifest was changed; the message names it.
        """
        found = []
        for name in self._models.names(""):
            version, _, file = name.partition("/")
            if file == MANIFEST and is_version(version):
                try:
                    found.append(read_bundle_manifest(self._models, version))
                except BundleError:
                    if self._models.exists(name) and not find_given_up(self._models, version):
                        raise  # else its fit has deleted it meanwhile
        return found

    def remove_incomplete(self, now: datetime) -> None:
        """Delete the incomplete bundles of failed or killed fits; a fit writes its files at its end, within an hour.

        Each is given up before, so that a fit which was only paused does not seal what is deleted. The mark stays for a
        day, in which files that such a fit still writes are deleted, too.
        """
        files = [name.partition("/") for name in self._models.names("")]
        sealed = {version for version, _, file in files if file == MANIFEST}
        for version in sorted({version for version, _, _ in files if is_version(version)}):
            if version in sealed:
                mark = find_given_up(self._models, version)
            else:
                mark = give_up(self._models, version, now) if now - made_at(version) > _UNFINISHED else None
            if mark and now - mark.given_up_at > _KEEP_GIVEN_UP:
                self._models.delete_tree(version)
            elif mark:
                left = self._models.names(version)
                self._models.delete_all([name for name in left if name != f"{version}/{MANIFEST}"])

    def read_ahead(self) -> None:
        """Begin to read the current bundle, some requests and 15 MB, for the next call of `open`; does not wait."""
        self._ahead = in_background(lambda: Bundle(self._models, self.current()), "read the model")

    def open(self, version: str) -> Bundle:
        """Read and check a bundle.

        Raises:
            ModelError: there is no such version, or it was changed.
        """
        if not is_version(version):
            listed = command("batch_fit", "models", "list", "--models", self._models.root)
            raise ModelError(f"{version!r} is not a model version; {listed} shows them")
        ahead, self._ahead = self._ahead, None
        if ahead:
            with suppress(AppError):  # it is met again below
                if (bundle := ahead.result()).version == version:
                    return bundle
        return Bundle(self._models, version)

    def promote(self, version: str) -> None:
        """Make `version`, which must be a sound bundle, the current one; the present one becomes history.

        Raises:
            ModelError: the bundle is not usable, or another process promoted, or deleted it, at the same time.
        """
        self.open(version)
        self._promote(version, *self._state())

    def promote_over(self, version: str, compared_with: str | None) -> bool:
        """The same while the current model is the one that `version` was compared with; returns whether it was.

        Args:
            version: a sound bundle.
            compared_with: a version; None if there was no current model.
        """
        self.open(version)
        state, tag = self._state()
        if (state.version if state else None) not in (version, compared_with):
            return False
        try:
            self._promote(version, state, tag)
        except ModelError:
            if self.current_or_none() in (version, compared_with):
                raise
            return False
        return True

    def _promote(self, version: str, state: Current | None, tag: str | None) -> None:
        if state and state.version == version:
            return
        previous = (state.version, *state.previous) if state else ()
        self._serve(version, previous, state, tag)

    def rollback(self) -> str:
        """Go back to the model that was current before, of those that are still there, and return its version.

        Raises:
            ModelError: there is none, it is not usable, or another process promoted, or deleted it, at the same time.
        """
        state, tag = self._state()
        there = self._those_there(state.previous) if state else ()
        if not there:
            raise ModelError(f"{self._models.root}: there is no earlier model to go back to")
        version, *earlier = there
        self.open(version)
        self._serve(version, tuple(earlier), state, tag)
        return version

    def repair(self, *, dry_run: bool = False) -> tuple[Current | None, str | None]:
        """If the current model is not there any more, go back as `rollback` does, or to none if no earlier one is left.

        Its folder was deleted by hand, or `promote` or `delete` was killed while both worked on it.

        Returns:
            The history after that, and the version that CURRENT named in vain; None if it did not.

        Raises:
            ModelError: CURRENT cannot be read, or another process promoted a model meanwhile.
        """
        state, tag = self._state()
        if state is None or is_sealed(self._models, state.version):
            return state, None
        version, *earlier = self._those_there(state.previous) or (_NO_VERSION,)
        repaired = Current(version=version, previous=tuple(earlier), promoted_at=datetime.now(UTC))
        if not dry_run:
            self._write(repaired, tag)
        return None if version == _NO_VERSION else repaired, state.version

    def delete(self, versions: Collection[str]) -> None:
        """Delete bundles. Repeating a killed call, after `repair` and `remove_incomplete`, finishes it.

        History loses them first, so that `rollback` finds none of them. Then each loses its manifest, without which it
        is not a bundle, and then its files. Of a promotion at the same time, either sees the other: it looks for the
        manifest after it has written CURRENT, and this looks at CURRENT after it has deleted the manifest.

        Raises:
            ModelError: one of them is the current model, or another process promoted a model meanwhile.
        """
        state, tag = self._state()
        if state and not set(state.previous).isdisjoint(versions):
            previous = tuple(version for version in state.previous if version not in versions)
            self._write(state.model_copy(update={"previous": previous}), tag)
        for version in versions:
            name = f"{version}/{MANIFEST}"
            try:
                sealed = self._models.read(name)
            except NotFoundError:  # another one deletes it, too
                continue
            if self.current_or_none() != version:
                self._models.delete(name)
            if self.current_or_none() == version:
                with suppress(AlreadyExistsError):
                    self._models.create(name, sealed)
                raise ModelError(f"{self._models.path(version)} is the current model; promote another version first")
            self._models.delete_tree(version)

    def _state(self) -> tuple[Current | None, str | None]:
        where = self._models.path(CURRENT)
        state, tag = read_document(
            self._models,
            CURRENT,
            Current,
            lambda why: ModelError(f"{where} cannot be read: {why}; delete it and promote a version"),
        )
        return None if state and state.version == _NO_VERSION else state, tag

    def _those_there(self, previous: tuple[str, ...]) -> tuple[str, ...]:
        """The previous versions from the latest on whose model was not deleted."""
        return tuple(dropwhile(lambda version: not is_sealed(self._models, version), previous))

    def _serve(self, version: str, previous: tuple[str, ...], former: Current | None, tag: str | None) -> None:
        """Make a version the current one in the place of the `former`, unless it is being deleted: see `delete`."""
        now = datetime.now(UTC)
        tag = self._write(Current(version=version, previous=previous, promoted_at=now), tag)
        if is_sealed(self._models, version):
            return
        deleted = f"{self._models.path(version)} was deleted meanwhile"
        try:
            self._write(former or Current(version=_NO_VERSION, promoted_at=now), tag)
        except ModelError:  # somebody has promoted another one already
            pass
        except StorageError as error:
            raise ModelError(f"{deleted}, and {CURRENT} still names it ({error}); promote another version") from error
        raise ModelError(f"{deleted}; promote another version")

    def _write(self, state: Current, tag: str | None) -> str:
        data = state.model_dump_json(indent=2).encode()
        try:
            return create_or_replace(self._models, CURRENT, data, tag)
        except (AlreadyExistsError, ConflictError):
            raise ModelError(
                f"{self._models.path(CURRENT)} was changed by somebody else meanwhile; look at it and try again"
            ) from None
