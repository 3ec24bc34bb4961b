"""The composition root: builds what a command needs, and is the only caller of ``asyncio.run``."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from toolbox_cli.cli import report

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

    from toolbox_cli.core.cutover import Workshop
    from toolbox_cli.core.service import Service
    from toolbox_cli.core.target import TargetOptions
    from toolbox_cli.db.embedded import EmbeddedServer
    from toolbox_cli.db.embeddings import PostgresEmbeddingStore
    from toolbox_cli.db.inspection import PostgresInspector
    from toolbox_cli.db.registry import Registry
    from toolbox_cli.db.search import PostgresSearchStore
    from toolbox_cli.db.state import RegistryState
    from toolbox_cli.db.tools import PostgresToolStore
    from toolbox_cli.db.transfer import PostgresTransferStore
    from toolbox_cli.domain.models import Generation, Role, Target
    from toolbox_cli.domain.ports import Embedder, Progress, ServiceProbe
    from toolbox_cli.domain.settings import Settings

Result = TypeVar("Result")

#: Seconds after which a command has loaded what it needs, and what it makes from then on may have to be collected.
LOADED_AFTER = 1.0
#: What a service is asked to embed to see what it makes, and for how long (s) a busy one is asked again.
PROBE_TEXT = "a tool that adds two numbers"
PROBE_PATIENCE = 5.0


class Services:
    """Everything a command may ask for, built when it is asked for and closed at the end."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._stack = AsyncExitStack()
        self._conninfo: str | None = None
        self._embedded: EmbeddedServer | None = None
        self._connection: psycopg.AsyncConnection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @cached_property
    def settings(self) -> Settings:
        from toolbox_cli.domain.settings import load_settings

        return load_settings()

    @property
    def embedded_server(self) -> EmbeddedServer:
        """The embedded server of these settings, whether it is in use or not."""
        from toolbox_cli.db.embedded import EmbeddedServer, default_data_dir

        return EmbeddedServer(default_data_dir(self.settings))

    async def conninfo(self) -> str:
        """The database's connection string; starts the embedded server for this command when no database is set."""
        from toolbox_cli.db.connection import conninfo_from_url, session_parameters

        if self._conninfo is None:
            url = self.settings.database_url
            if url is None:
                self._embedded = self.embedded_server
                self._stack.enter_context(self._embedded.use())
                base = self._embedded.conninfo()
            else:
                base = conninfo_from_url(url.get_secret_value())
            timeout = self.settings.connect_timeout
            self._conninfo = session_parameters(base, command=self._command, connect_timeout=timeout)
        return self._conninfo

    async def connect(self) -> psycopg.AsyncConnection:
        """A new session, closed at the end of the command."""
        from toolbox_cli.db.connection import connect

        connection = await connect(await self.conninfo())
        self._stack.push_async_callback(connection.close)
        return connection

    async def connection(self) -> psycopg.AsyncConnection:
        """The command's main session."""
        if self._connection is None:
            self._connection = await self.connect()
        return self._connection

    async def registry(self) -> Registry:
        from toolbox_cli.db.registry import Registry

        return Registry(
            await self.conninfo(),
            await self.connection(),
            lock_timeout_ms=self.settings.lock_timeout_ms,
            wait_timeout=self.settings.wait_timeout,
            embedded=self._embedded is not None,
        )

    async def state(self) -> RegistryState:
        """The registry's state; unlike ``registry`` it loads nothing that changes one, which a search does not need."""
        from toolbox_cli.db.faults import database_errors
        from toolbox_cli.db.state import read_state

        connection = await self.connection()
        with database_errors():
            return await read_state(connection)

    async def tools(self) -> PostgresToolStore:
        from toolbox_cli.db.tools import PostgresToolStore

        (await self.state()).check_registry()
        return PostgresToolStore(await self.connection())

    async def transfer(self) -> PostgresTransferStore:
        from toolbox_cli.db.transfer import PostgresTransferStore

        (await self.state()).check_registry()
        return PostgresTransferStore(await self.connection())

    async def search_store(self) -> PostgresSearchStore:
        from toolbox_cli.db.search import PostgresSearchStore

        return PostgresSearchStore(await self.connection())

    async def embedding_store(self) -> PostgresEmbeddingStore:
        from toolbox_cli.db.embeddings import PostgresEmbeddingStore

        # Where there is no registry that is what is to be said, and not that a type is missing.
        await self.generation()
        reader, writer = await self.connection(), await self.connect()
        return await PostgresEmbeddingStore.create(await self.conninfo(), reader, writer, self.settings.wait_timeout)

    async def workshop(self, progress: Progress) -> Workshop:
        """What a cutover works with."""
        from toolbox_cli.core.cutover import Workshop

        stop = self.stop_event()
        return Workshop(
            registry=await self.registry(),
            store=await self.embedding_store(),
            quality=await self.search_store(),
            build_embedder=self.embedder,
            settings=self.settings,
            progress=progress,
            stop=stop,
        )

    async def inspector(self) -> PostgresInspector:
        from toolbox_cli.db.inspection import PostgresInspector

        return PostgresInspector(await self.registry())

    async def generation(self, role: str = "current") -> Generation:
        """The registry's generation in a role; StateError when there is none."""
        from toolbox_cli.db.faults import database_errors
        from toolbox_cli.db.state import read_generations
        from toolbox_cli.domain.models import Role

        wanted = Role(role)
        connection = await self.connection()
        with database_errors():
            found = (await read_generations(connection)).get(wanted)
        # The whole state takes ten round trips, and is needed only to say why there is none.
        return found or (await self.state()).require_generation(wanted)

    async def generations(self) -> Mapping[Role, Generation]:
        """The live generations; StateError where the registry has no record of them."""
        from toolbox_cli.domain.models import Role

        state = await self.state()
        state.require_generation(Role.CURRENT)
        return state.generations

    async def target(self, options: TargetOptions) -> Target:
        """What a migration is to lead to."""
        from toolbox_cli.core.service import Service
        from toolbox_cli.core.target import resolve_target
        from toolbox_cli.domain.models import DEFAULT_KEY_VARIABLE

        async def probe(model: str, endpoint_url: str) -> int:
            key = options.api_key_env or DEFAULT_KEY_VARIABLE
            service = Service(model=model, endpoint_url=endpoint_url, api_key_env=key)
            embedder = self._embedder_of(service, None, patience=0)
            try:
                return int((await embedder.embed_query(PROBE_TEXT)).shape[0])
            finally:
                await embedder.aclose()

        return await resolve_target(options, self.settings, await (await self.registry()).generation(), probe)

    async def try_out(self, target: Target) -> None:
        """Raise EmbeddingServiceError unless the target's service makes what the target says."""
        from toolbox_cli.core.service import service_for

        embedder = self._embedder_of(service_for(target), target.space.dimension, patience=PROBE_PATIENCE)
        try:
            await embedder.embed_documents([PROBE_TEXT])
        finally:
            await embedder.aclose()

    def configured_service(self) -> Service:
        from toolbox_cli.core.service import configured_service

        return configured_service(self.settings)

    def configured_embedder(self) -> Embedder:
        """The service that the settings name, whatever the registry holds."""
        return self._embedder_of(self.configured_service(), self.settings.embedding_dimension)

    async def backup(self, path: Path | None) -> Callable[[], Awaitable[None]] | None:
        """What makes a backup before a change, or None where none was asked for."""
        from toolbox_cli.db.backup import dump

        if path is None:
            return None
        conninfo = await self.conninfo()

        async def make() -> None:
            await asyncio.to_thread(dump, conninfo, path)

        return make

    def stop_event(self) -> asyncio.Event:
        """Set by the first SIGINT or SIGTERM, so that what is under way can be ended well.

        A second one cancels the command: the terminal and the embedded server are still left in order. A third ends
        the process.
        """
        stop = asyncio.Event()
        task = asyncio.current_task()
        received = 0

        def interrupted() -> None:
            nonlocal received
            received += 1
            stop.set()
            if received == 2 and task is not None:
                task.cancel()
            elif received > 2:
                os._exit(130)

        if _owns_signals():
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, interrupted)
        return stop

    def embedder(self, generation: Generation, max_batch: int | None = None) -> Embedder:
        """The model of a generation, at the generation's service; the caller closes it."""
        from toolbox_cli.core.service import service_of

        service = service_of(generation, self.settings)
        if service.note is not None:
            report.note(service.note)
        return self._embedder_of(service, generation.dimension, max_batch)

    def probe(self, generation: Generation) -> ServiceProbe:
        """Embedders of a generation's service for a probe, which is not patient: a refusal is an answer."""
        from toolbox_cli.core.service import service_of

        service = service_of(generation, self.settings)

        def build(
            *,
            model: str | None = None,
            dimension: int | None = None,
            send_dimensions: bool = False,
            max_batch: int | None = None,
        ) -> Embedder:
            asked = service.model_copy(update={"model": model}) if model is not None else service
            return self._embedder_of(
                asked,
                dimension or generation.dimension,
                max_batch,
                patience=PROBE_PATIENCE,
                send_dimensions=send_dimensions or None,
            )

        return build

    def _embedder_of(
        self,
        service: Service,
        dimension: int | None,
        max_batch: int | None = None,
        *,
        patience: float | None = None,
        send_dimensions: bool | None = None,
    ) -> Embedder:
        """``patience`` (s) bounds the retries of a mere probe; the settings do otherwise."""
        from toolbox_cli.embedding import build_embedder

        settings = self.settings
        return build_embedder(
            model=service.model,
            dimension=dimension,
            document_prefix=service.document_prefix,
            query_prefix=service.query_prefix,
            endpoint_url=service.endpoint_url,
            api_key=settings.api_key(service.api_key_env),
            request_timeout=settings.request_timeout if patience != 0 else min(5.0, settings.request_timeout),
            retry_timeout=settings.retry_timeout if patience is None else min(patience, settings.retry_timeout),
            max_batch=max_batch,
            send_dimensions=send_dimensions,
        )


def _owns_signals() -> bool:
    return sys.platform != "win32" and threading.current_thread() is threading.main_thread()


def _fast_loop() -> Callable[[Coroutine[Any, Any, Result]], Result]:
    """uvloop's where there is one: it took 12 % off the CPU of embedding through HTTP."""
    try:
        import uvloop
    except ModuleNotFoundError:  # Windows
        return asyncio.run
    return uvloop.run


def run(command: str, action: Callable[[Services], Awaitable[Result]]) -> Result:
    """Carry out one command's action with its services."""

    event_loop = _fast_loop() if command == "reindex" else asyncio.run

    async def with_services() -> Result:
        # SIGTERM ends a command as Ctrl-C does: what was answered is stored, the embedded server is left in order.
        task = asyncio.current_task()
        if task is not None and _owns_signals():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        asyncio.get_running_loop().call_later(LOADED_AFTER, gc.enable)
        try:
            async with Services(command) as services:
                return await action(services)
        finally:
            # uvloop leaves its handlers in place when it closes; whoever called us has handlers of their own.
            if _owns_signals():
                for number in (signal.SIGINT, signal.SIGTERM):
                    asyncio.get_running_loop().remove_signal_handler(number)

    return event_loop(with_services())
