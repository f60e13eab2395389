"""A whole fleet of real processes: broker, coordinator, publisher and agents, and `fleet` as an operator runs it.

with Fleet(short_folder, releases, devices=3) as fleet:
    fleet.fleet("rollout", "start", "tiny", "--to", "1.0.0", "--wait", "60")
    fleet.broker.kill(); fleet.coordinator.kill(); fleet.agents[0].kill_runtime()

What must hold then is the tests'.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.harness.agent import PADDLE_PYTHON, Agent, wait_until
from tests.harness.broker import HOST, Broker
from tests.harness.coordinator import Coordinator, free_port
from tests.harness.releases import Releases

OPERATOR_CLI = [sys.executable, "-m", "cloud_sync.operator_cli"]
PROBATION_S = 1.0


class Fleet:
    """Broker, coordinator and agents below `folder` (a short path). With `with` all is started and ended.

    releases: what is published, and the engine; its publisher names this fleet's coordinator, so give it to one fleet
    only. factory: the release that every device has from the beginning. model: settings of the slot. sections: more of
    agent.toml. detached: everything is to outlive this process. begun: told of each process that was started.
    """

    def __init__(
        self,
        folder: Path,
        releases: Releases,
        devices: int = 3,
        *,
        factory: str | None = "0.9.0",
        model: Mapping[str, Any] | None = None,
        detached: bool = False,
        begun: Callable[[str, int], None] = lambda what, pid: None,
        **sections: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.releases = releases
        self.broker = Broker(folder / "broker", detached=detached)
        self.agents: list[Agent] = []
        self.coordinator: Coordinator
        self._names = [f"device-{number}" for number in range(1, devices + 1)]
        self._factory = factory
        self._model = {"probation_s": PROBATION_S, **(model or {})}
        self._detached = detached
        self._begun = begun
        self._sections = sections

    def __enter__(self) -> Fleet:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Fleet:
        """Start everything; all releases are at the coordinator, and every device serves and has said hello."""
        self._begun("broker", self.broker.start().pid)
        self.start_coordinator()
        for name in self._names:
            self._begun(name, self.add_agent(name).start().pid)
        for agent in self.agents:
            agent.wait_serving(60.0)
        for name in self._names:
            self.wait_device(name, lambda device: device["online"], "it is online")
        return self

    def start_coordinator(self) -> None:
        """The coordinator, authorised, with all releases; the broker runs already."""
        self.broker.add_user("coordinator")
        self.coordinator = Coordinator(
            self.folder / "coordinator",
            self.releases.root_file,
            address=self.broker.address,
            password_file=self.broker.folder / "coordinator.password",
            detached=self._detached,
        ).init()
        self.fleet_json("coordinator", "authorize", str(self.coordinator.public_key_file))
        self._begun("coordinator", self.coordinator.start().pid)
        self.fleet_json("snapshot", "publish", "--all")

    def add_agent(
        self,
        name: str,
        *,
        broker: str | None = None,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        **sections: Mapping[str, Any],
    ) -> Agent:
        """One more device, known to the broker, not started.

        broker: another way to it than its own address. models: more slots. sections: more of agent.toml, for this one.
        """
        model = dict(self._model)
        if self._factory is not None:
            model["factory"] = str(self.folder / "factory.db")
        serving = {"http": f"{HOST}:{free_port()}", **self._sections.get("serving", {})}  # the same after a restart
        sync = {
            "broker": broker or self.broker.address,
            "password_file": str(self.broker.add_user(name)),
            **self._sections.get("sync", {}),
            **sections.get("sync", {}),
        }
        agent = Agent(
            self.folder / name,
            self.releases.root_file,
            models={self.releases.model: model, **(models or {})},
            engine=self.releases.engine,
            **{**self._sections, **sections, "sync": sync, "serving": serving},
        )
        agent.detached = self._detached
        agent.forked = not self._detached
        self.agents.append(agent)
        if self._factory is not None and not (self.folder / "factory.db").exists():
            bundle = self.releases.all[self._factory].bundle
            done = agent.cli("factory", str(bundle), "--out", str(self.folder / "factory.db"))
            assert done.returncode == 0, done.stderr
        return agent

    def agent(self, device_id: str) -> Agent:
        """The agent of this device."""
        return next(agent for agent in self.agents if agent.folder.name == device_id)

    @property
    def environment(self) -> dict[str, str]:
        """What `fleet` needs beside PATH."""
        return {
            "HOLDFAST_COORDINATOR": self.coordinator.url,
            "HOLDFAST_TOKEN_FILE": str(self.coordinator.token_file),
            "HOLDFAST_REPO": str(self.releases.publisher.repository.folder),
            "HOLDFAST_KEYS": str(self.releases.publisher.keys),
            "HOLDFAST_PADDLE_PYTHON": PADDLE_PYTHON,
        }

    def fleet(self, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run `fleet ARGUMENTS`."""
        return subprocess.run(
            [*OPERATOR_CLI, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def fleet_json(self, *arguments: str, timeout_s: float = 120.0) -> dict[str, Any]:
        """The JSON document of a `fleet` command that has to succeed."""
        done = self.fleet(*arguments, "--json", timeout_s=timeout_s)
        assert done.returncode == 0, f"fleet {' '.join(arguments)}: {done.stderr or done.stdout}"
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def devices(self) -> dict[str, dict[str, Any]]:
        """What the coordinator knows of each device, by its id. Asked in this process: quick enough to poll."""
        from cloud_sync.client.api import Coordinator as Api

        with Api(self.coordinator.url, self.coordinator.token_file) as api:
            return {device["device_id"]: device for device in api.devices().document["devices"]}

    def wait_device(
        self, device_id: str, condition: Callable[[dict[str, Any]], Any], what: str, timeout_s: float = 30.0
    ) -> dict[str, Any]:
        """Return what the coordinator knows of this device once the condition holds for it."""
        seen: dict[str, Any] = {}

        def holds() -> dict[str, Any] | None:
            from edge_agent.contract.errors import Unavailable

            with contextlib.suppress(Unavailable):  # it is just being started again
                seen.update(self.devices())
            device: dict[str, Any] | None = seen.get(device_id)
            return device if device and condition(device) else None

        def late() -> str:
            return f"{device_id}: {what}; known is {seen.get(device_id)}; {self.coordinator.log_tail(5)}"

        found: dict[str, Any] = wait_until(holds, late, timeout_s)
        return found

    def wait_all_serve(self, version: str, timeout_s: float = 60.0) -> None:
        """Return once the coordinator knows of every agent that it serves this version."""
        for agent in self.agents:
            self.wait_device(
                agent.folder.name,
                lambda device: self._serves(device) == version,
                f"it serves {version}",
                timeout_s,
            )

    def _serves(self, device: Mapping[str, Any]) -> str | None:
        slot = device["models"].get(self.releases.model)
        return slot["active"]["version"] if slot and slot["serving"] and slot["active"] else None

    def stop(self) -> None:
        """End everything, also when ending one thing fails."""
        with contextlib.ExitStack() as stack:
            for end in self._ends():
                stack.callback(end)

    def _ends(self) -> Iterator[Callable[[], None]]:
        """What ends each part; called last to first."""
        yield self.broker.stop
        if hasattr(self, "coordinator"):
            yield self.coordinator.stop
        for agent in self.agents:
            yield agent.stop
