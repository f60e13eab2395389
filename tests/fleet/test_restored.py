"""A coordinator that was restored from a backup, and one without its broker: `fleet` says so, and `resume` ends it."""

from __future__ import annotations

from tests.fleet.conftest import Scene
from tests.fleet.stand import Operator
from tests.harness.agent import wait_until


def test_while_planning_is_stopped_every_wish_is_refused_until_resume(operator: Operator, scene: Scene) -> None:
    player = scene.enter("a")
    player.device.epoch, player.device.revision = 1, 99  # of an assignment that this database has never given
    player.device.hello()
    wait_until(lambda: operator.document("devices", "list")["coordinator"]["planning"]["stopped"], "it stops planning")
    for command in (("devices", "list"), ("rollout", "status")):
        result = operator.run(*command)
        assert "The coordinator plans nothing: " in result.stderr and scene.name("a") in result.stderr
    for wish in (("rollout", "start"), ("rollback",)):
        refused = operator.document(*wish, scene.model, "--to", "1.1.0", code=1)
        assert refused["reason"] == "planning_stopped" and "fleet resume" in refused["next_step"]
    assert operator.run("rollback", scene.model, "--to", "1.0.0", code=1).stderr.startswith("failed (planning_stopped)")
    assert operator.document("resume") == {"planning": {"stopped": None}}
    assert operator.run("devices", "list").stderr == ""
    assert scene.start("--wait", "30")["rollout"]["state"] == "done"
    assert player.device.revision > 99


def test_without_its_broker_the_coordinator_answers_and_says_that_it_hears_nobody(
    operator: Operator, scene: Scene
) -> None:
    operator.town.broker.kill()
    wait_until(
        lambda: not operator.document("devices", "list")["coordinator"]["broker"]["connected"], "it misses its broker"
    )
    assert "not connected to the broker" in operator.run("rollout", "status").stderr
    operator.town.broker.start()
    operator.town.wait_connected()
