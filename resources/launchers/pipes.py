"""Dagster Pipes over files in a job's folder, for jobs that outlive the run that asked for them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import dagster as dg
from dagster_pipes import PipesDefaultMessageWriter

from resources.launchers.base import Request


@contextmanager
def pipes_session(context: dg.AssetExecutionContext | None, request: Request) -> Iterator[Mapping[str, str]]:
    """A Pipes session over files in the job's folder: the next orchestrator reads on where this one was killed."""
    if context is None:
        yield {}
        return
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesFileContextInjector(str(request.folder / "pipes_context.json")),
        message_reader=_MessagesReader(str(request.folder / "messages.jsonl")),
    ) as session:
        yield session.get_bootstrap_env_vars()


class _MessagesReader(dg.PipesFileMessageReader):
    """Reads a job's messages from the first on, without emptying the file as PipesFileMessageReader does at its start:
    the job may have been writing to it for hours."""

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[Mapping[str, object]]:
        closed = Event()
        thread = Thread(target=self._tail, args=(handler, closed), daemon=True)
        thread.start()
        try:
            yield {PipesDefaultMessageWriter.FILE_PATH_KEY: self._path}
        finally:
            closed.set()
            thread.join()

    def _tail(self, handler: Any, closed: Event) -> None:
        """Hand over whole lines as they come; a file that is new begins at its start."""
        position = 0
        while True:
            last = closed.is_set()
            position = self._read_on(handler, position)
            if last:
                return
            closed.wait(1.0)

    def _read_on(self, handler: Any, position: int) -> int:
        try:
            with open(self._path, "rb") as stream:
                stream.seek(0, 2)
                stream.seek(position if position <= stream.tell() else 0)
                while (line := stream.readline()).endswith(b"\n"):
                    handler.handle_message(json.loads(line))
                    position = stream.tell()
        except FileNotFoundError:
            return 0
        return position
