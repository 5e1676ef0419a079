import subprocess
import sys

import pytest

from vera_controller.registry import RobotError, make_robot


def make(name, contract):
    return make_robot(name, contract, on_state=print, on_bad_state=print)


def test_an_unknown_robot_is_named_with_those_there_are(contract):
    with pytest.raises(RobotError, match="unknown robot 'spot'; known: fake_arm, joint_tr"):
        make('spot', contract)


def test_robots_to_come_are_not_there_yet_and_say_so(contract):
    with pytest.raises(RobotError, match="allegro' is planned but not part of this release"):
        make('allegro', contract)


@pytest.mark.parametrize('module', ['controller', 'registry', 'nodes.controller_node'])
def test_the_process_of_the_controller_never_imports_torch(module):
    if 'nodes' in module:
        pytest.importorskip('rclpy')
    code = (
        f'import sys, vera_controller.{module}\n'
        "heavy = {'torch', 'transformers', 'cv2', 'vera_jidm', 'vera_planner', 'vera_sim'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))\n"
        "print('rclpy' in sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=True
    )
    heavy, ros = ran.stdout.split('\n')[:2]
    assert heavy == '[]'
    assert ros == str('nodes' in module)
