"""`vera bench words` where the scene has one goal: who listens to the words, and who does not."""

from __future__ import annotations

import numpy as np
import pytest

from vera_bringup.words import measure
from vera_core.contract import load_contract
from vera_core.seams import Plan
from vera_sim import make_environment, pusht


class Knowing:
    """The expert's future, of whichever scene is pictured; stands still unless told its task."""

    planner_id, checkpoint_hash = 'knowing', ''

    def __init__(self, contract, listens):
        self.env = make_environment('pusht', contract.sim.options, 96)
        self.listens, self.seed, self.asked = listens, 0, []

    def plan(self, context, prompt, *, seed=0, warm_start=None):
        from vera_core.seeds import mix

        self.asked.append(prompt)
        self.env.reset(mix(5, seed, 77))
        assert (self.env.render() == context[-1]).all()
        if self.listens and prompt not in pusht.HELD_OUT:
            return Plan(np.repeat(context[-1:], 4, 0), 0.1)
        return Plan(np.stack(self.env.expert_rollout('goal', 4)), 0.1)


@pytest.mark.parametrize('listens', [True, False])
def test_only_a_planner_that_listens_is_better_when_asked_rightly(listens):
    contract = load_contract('pusht')
    planner = Knowing(contract, listens)
    found = measure(planner, contract, scenes=4, seed=5)
    assert found.right.shape == found.wrong.shape == (4, 4)
    gap, low, _ = found.gap()
    assert (gap > 20 and low > 20) if listens else gap == 0
    assert (found.moving > 50).all()
    assert (found.absent == 0).all() if listens else (found.absent == found.moving).all()
    # Each scene is asked three different things, the first in a phrasing kept from training.
    assert all(words in pusht.HELD_OUT for words in planner.asked[::3])
    assert not set(planner.asked[1::3] + planner.asked[2::3]) & set(pusht.HELD_OUT)
