"""Which models are served: those that were named at the start, and other versions of theirs that a client asks for.

An alias is followed: each request asks the registry where it points, so that the first one after a promotion is answered by the new
champion. Requests that have begun stay with the model that they began with. While the registry is away, the model that is loaded
goes on answering.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from gpt.errors import UserError
from gpt.registry.overview import facts
from gpt.registry.versions import all_versions, find, find_version, is_registry_uri, model_folder
from gpt.serving.facts import Fact, describe
from gpt.serving.served import Limits, ServedModel
from gpt.tracking import store

_LOOK_SECONDS = 2.0
"A registry that takes longer to say where an alias points is taken for away."
_AWAY_SECONDS = 10.0
"So long a registry that was away is not asked again."
_MOST_LOADED = 3
"Models that clients have asked for beside those that were named at the start: the one asked for longest ago goes."
_LISTED = 20
"Versions of a registered model that are listed, the newest ones."

logger = logging.getLogger(__name__)


class NoSuchModel(Exception):
    """No model of this name is served."""


@dataclass(frozen=True)
class Version:
    """A registered version; its files never change."""

    name: str
    number: int

    @property
    def id(self) -> str:
        return f"{self.name}/{self.number}"


@dataclass(frozen=True)
class Listed:
    """A model that may be asked for; what only loading it tells is None until then."""

    id: str
    created: int
    is_default: bool
    facts: Sequence[Fact]
    model: ServedModel | None


@dataclass
class _Named:
    """A model that was named at the start, and the one that is meant by it now."""

    spec: str
    model: ServedModel
    version: Version | None
    follows: bool
    "An alias, which may move."
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: int = 0
    "Requests that have asked where the alias points."
    looked: int = 0
    "Those of them that a look which began later has answered."
    away_until: float = 0.0


class Catalogue:
    """Raises `UserError` if a model that was named at the start cannot be loaded."""

    def __init__(self, specs: Sequence[str], default_name: str, thread: Executor, limits: Limits) -> None:
        self._default_name, self._thread, self._limits = default_name, thread, limits
        self._loaded: dict[Version, ServedModel] = {}
        "Versions that clients have asked for, the one asked for last at the end."
        self._loading = asyncio.Lock()
        self._named = [self._open(spec) for spec in specs]

    @property
    def models(self) -> list[ServedModel]:
        """All that are loaded, each once."""
        return list(dict.fromkeys([*(named.model for named in self._named), *self._loaded.values()]))

    async def find(self, name: str | None) -> ServedModel:
        """Return the model that a request names, the first one where it names none. Raises `NoSuchModel`, `UserError`."""
        named = self._named[0] if name is None else next((each for each in self._named if self._is(each, name)), None)
        if named is not None:
            return await self._current(named)
        version = self._version(name or "")
        for each in self._named:
            if each.version is not None and each.version == version:
                return each.model
        if version is None or version.name not in {each.version.name for each in self._named if each.version}:
            raise NoSuchModel(f"{name}: is not served; GET /v1/models lists what is")
        return await self._asked_for(version)

    async def listed(self) -> list[Listed]:
        """Return all models that may be asked for, the default first."""
        for named in self._named:
            await self._current(named)
        entries = [
            Listed(named.model.name, named.model.created, number == 0, named.model.facts, named.model)
            for number, named in enumerate(self._named)
        ]
        names = dict.fromkeys(named.version.name for named in self._named if named.version)
        for name in names:
            try:
                entries += await asyncio.to_thread(self._others, name)
            except UserError as error:
                logger.warning("the versions of %s are not listed: %s", name, error)
        ids: set[str] = set()
        return [entry for entry in entries if not (entry.id in ids or ids.add(entry.id))]

    def _open(self, spec: str) -> _Named:
        if not is_registry_uri(spec):
            folder = Path(spec)
            name = folder.resolve().name
            known = describe(facts.of_folder(folder, Path.cwd()))
            return _Named(spec, ServedModel(name, folder, known, self._thread, self._limits), None, follows=False)
        version = self._look(spec)
        return _Named(spec, self._load(version), version, follows="@" in spec)

    @staticmethod
    def _is(named: _Named, name: str) -> bool:
        """Whether a client means this one: as it was named at the start, by its alias, or by the name of its folder or model."""
        if named.version is None:
            return name in (named.spec, named.model.name)
        names = {named.spec, named.spec.removeprefix("models:/"), named.version.name}
        return name in names

    def _version(self, name: str) -> Version | None:
        """Return the version that NAME/3 or models:/NAME/3 is."""
        model, _, number = name.removeprefix("models:/").rpartition("/")
        return Version(model, int(number)) if model and number.isascii() and number.isdigit() else None

    async def _current(self, named: _Named) -> ServedModel:
        """Return the model that an alias points to now; a look at the registry serves all who asked before it began."""
        if not named.follows:
            return named.model
        named.asked += 1
        mine = named.asked
        async with named.lock:
            if named.looked < mine and time.monotonic() > named.away_until:
                named.looked = named.asked
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        version = await asyncio.to_thread(self._look, named.spec)
                    if version != named.version:
                        model = self._loaded.get(version) or await asyncio.to_thread(self._load, version)
                        logger.warning("%s is %s now, and was %s", named.spec, model.name, named.model.name)
                        named.model, named.version = model, version
                except (UserError, TimeoutError, OSError) as error:
                    named.away_until = time.monotonic() + _AWAY_SECONDS
                    logger.warning(
                        "%s: %s; %s goes on answering",
                        named.spec,
                        error or "the registry does not answer",
                        named.model.name,
                    )
        return named.model

    async def _asked_for(self, version: Version) -> ServedModel:
        """Return a version that was not named at the start; load it if need be."""
        async with self._loading:
            model = self._loaded.pop(version, None) or await asyncio.to_thread(self._load, version)
            self._loaded[version] = model
            for other in [*self._loaded][: -_MOST_LOADED or None]:
                del self._loaded[other]  # who is being answered by it keeps it until then
        return model

    def _look(self, spec: str) -> Version:
        client = store.existing_client()
        with store.store_errors():
            found = find_version(client, spec, self._default_name)
        return Version(found.name, int(found.version))

    def _load(self, version: Version) -> ServedModel:
        client = store.existing_client()
        with store.store_errors():
            found = find(client, version.name, version.number)
            if found is None:
                raise UserError(f"models:/{version.id}: there is no such version")
            folder, known = model_folder(client, found), describe(facts.of_version(client, found))
        return ServedModel(version.id, folder, known, self._thread, self._limits)

    def _others(self, name: str) -> list[Listed]:
        client = store.existing_client()
        with store.store_errors():
            versions = all_versions(client, name)[:_LISTED]
        return [
            Listed(
                f"{name}/{each.version}",
                int(each.creation_timestamp / 1000),
                is_default=False,
                facts=describe(facts.of_tags(each)),
                model=self._loaded.get(Version(name, int(each.version))),
            )
            for each in versions
            if "weights_sha256" in each.tags
        ]
