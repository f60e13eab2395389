"""The sync process as the runtime sees it: started, restarted after a pause, ended. What it may do here is
`sync_server`'s.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import structlog

from edge_agent.config import Config
from edge_agent.contract import limits
from edge_agent.core.backoff import Deaths, respawn_delay_s, with_death
from edge_agent.runtime.link_state import LinkState
from edge_agent.runtime.process import ProcessHandle, start

log = structlog.get_logger()


class SyncProcess:
    """One process, while [sync] names a broker. It holds nothing that may be lost, so it is never taken over."""

    def __init__(self, config: Config, run_dir: Path, socket: Path, link: LinkState) -> None:
        self._config = config
        self._run_dir = run_dir
        self._socket = socket
        self._link = link
        self._process: ProcessHandle | None = None
        self._ending = False

    @property
    def pid(self) -> int | None:
        """Its process id, None while there is none."""
        return self._process.pid if self._process and not self._process.exited.is_set() else None

    async def run(self) -> None:
        """Keep it running, until cancelled."""
        deaths: Deaths = ()
        while self._config.sync.broker is not None and not self._ending:  # one pass a start
            now_s = asyncio.get_running_loop().time
            await asyncio.sleep(respawn_delay_s(deaths, now_s()))
            try:
                self._process = start(self._command(), folder=self._run_dir, on_exit=lambda: None)
            except OSError as error:
                log.error("sync_did_not_start", detail=str(error))
                deaths = with_death(deaths, now_s())
                continue
            log.info("sync_up", pid=self._process.pid)
            await self._process.exited.wait()
            deaths = with_death(deaths, now_s())
            self._link.said(connected=False, detail="the sync process ended and is started again")
            if not self._ending:
                log.warning("sync_died")

    async def end(self) -> None:
        """Ask it to end; kill it when it does not."""
        self._ending = True
        if self._process is not None and not self._process.exited.is_set():
            self._process.kill(signal.SIGTERM)
            await self._process.end(limits.SYNC_END_S)

    def _command(self) -> list[str]:
        sync = self._config.sync
        options = {
            "--socket": str(self._socket),
            "--broker": sync.broker,
            "--device-id": self._config.device_id,
            "--username": sync.username or self._config.device_id,
            "--password-file": sync.password_file,
            "--ca-file": sync.ca_file,
            "--cert-file": sync.cert_file,
            "--key-file": sync.key_file,
            "--http": sync.http,
            "--http-token-file": sync.http_token_file,
            "--log-level": self._config.log_level,
            "--orphan-s": str(self._config.limits.orphan_s),
            "--reconnect-cap-s": str(sync.reconnect_max_s),
            "--runtime-pid": str(os.getpid()),
        }
        given = [word for name, value in options.items() if value is not None for word in (name, value)]
        return [sys.executable, "-m", "edge_agent.sync", *given]
