"""What counts as a plan that stands still, on pictures of the real environment."""

from __future__ import annotations

import numpy as np

from vera_core.canvas import tile
from vera_core.contract import load_contract
from vera_drivers.sim_world import make_world
from vera_planner.goal import SettleRule
from vera_planner.motion import plan_motion
from vera_sim.finger_kinematics import tip_jacobian


def test_a_third_of_a_pixel_of_the_tip_is_still_and_a_whole_one_moves():
    contract = load_contract('finger')
    world = make_world(contract)
    rule = SettleRule()
    for seed in range(5):
        world.reset(seed, 0)
        q = world.positions()
        arm = np.linalg.pinv(tip_jacobian(q))
        for pixels, still in ((0.3, True), (1.0, False)):
            moved = q + arm @ np.array([pixels, 0.0])
            views = [world.env.render_at(posture) for posture in (q, moved)]
            before, after = (tile({'top': view}, contract) for view in views)
            assert (plan_motion(before, after) < rule.still_motion) == still
