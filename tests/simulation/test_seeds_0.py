"""Block 0 of the seeds; each block is a file, so that workers share them. How one is judged is told in `seeds`."""

from __future__ import annotations

from tests.simulation.seeds import seeds_of_block

test_every_promise_is_kept_and_the_goal_reached = seeds_of_block(0)
