"""The cockpit of a running finger, as a person uses it: words, scrubbing, Stop, Reset, a phone."""

from __future__ import annotations

import re

import numpy as np
import pytest

from browser import FLAT, browser, programs, wait_until
from graph_tools import Vera, unique_domain
from vera_bringup.nodes.client import VeraClient
from vera_core.nodes.qos import STATE

pytestmark = pytest.mark.slow
PATIENCE = 120.0  # s: two cores, a browser, and other tests beside this one
# Of a canvas: how many different colours it shows.
COLOURS = """
    const c = document.getElementById(arguments[0]);
    const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    const seen = new Set();
    for (let i = 0; i < p.length; i += 4) seen.add((p[i] << 16) | (p[i + 1] << 8) | p[i + 2]);
    return seen.size;
"""


class Page:
    """The page, by what a person sees."""

    def __init__(self, driver, address: str) -> None:
        self.driver = driver
        driver.get(address)
        wait_until(lambda: self.text('embodiment') == 'finger', PATIENCE, 'the page to open')

    def element(self, name: str):
        return self.driver.find_element('id', name)

    def text(self, name: str) -> str:
        return self.element(name).text

    def colours(self, name: str) -> int:
        return self.driver.execute_script(COLOURS, name)

    def wait_for_state(self, name: str) -> None:
        wait_until(lambda: self.text('state-name') == name, PATIENCE, f'the page to say {name}')

    def goals(self) -> list[tuple[str, str]]:
        """(words, status), the newest first."""
        return self.driver.execute_script(
            'return [...document.querySelectorAll("#goals li[data-status]")]'
            '.map(li => [li.children[1].textContent, li.dataset.status])'
        )

    def send_goal(self, prompt: str) -> None:
        box = self.element('goal')
        box.clear()
        box.send_keys(prompt + '\n')

    def wait_for_goal(self, prompt: str, *status: str) -> None:
        done = lambda: self.goals()[:1] in [[[prompt, s]] for s in status]  # noqa: E731
        wait_until(done, PATIENCE, f'{prompt!r} to be {status}; the page says {self.goals()}')


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    programs()
    folder, domain = tmp_path_factory.mktemp('graph'), unique_domain()
    up = Vera(
        'up', 'finger', '--planner', 'oracle', '--cockpit-port', '0', '--domain', str(domain),
        cwd=folder,
    )  # fmt: skip
    try:
        up.wait_for('all nodes are ready', 180)
        up.wait_for('cockpit: http', 60)
        address = re.search(r'cockpit: (http://\S+)', up.text)
        assert address
        with VeraClient(domain, patience=PATIENCE) as client:
            yield client, address[1]
        assert up.end() == 0, up.text
    finally:
        up.kill()


@pytest.mark.timeout(600)
def test_a_goal_is_typed_and_reached_and_stop_holds_the_robot(graph, tmp_path):
    client, address = graph
    assert re.match(r'http://localhost:\d+/$', address)
    with browser(tmp_path / 'profile', FLAT) as driver:
        page = Page(driver, address)
        page.wait_for_state('READY')
        assert client.until(lambda: client.sim is not None, PATIENCE)
        prompts = [f'touch the {name} disc' for name in client.sim.objects]

        page.send_goal('   ')
        said = lambda: 'the goal is empty' in page.text('toasts')  # noqa: E731
        wait_until(said, PATIENCE, 'what is wrong with an empty goal')
        assert page.goals() == []

        page.send_goal(prompts[0])
        page.wait_for_goal(prompts[0], 'SUCCEEDED')
        assert client.until(lambda: client.sim.dwelled == client.sim.objects[0], PATIENCE)
        assert page.text('goal-now') == f'reached: {prompts[0]}'
        wait_until(lambda: page.colours('camera-top') > 50, PATIENCE, 'a picture of the camera')

        # The dream beside what happened, frame by frame.
        wait_until(lambda: page.colours('imagined') > 50, PATIENCE, 'an imagined frame')
        wait_until(lambda: page.colours('happened') > 50, PATIENCE, 'what happened')
        page.element('older').click()
        slider = page.element('frame')
        last = int(slider.get_attribute('max'))
        for frame in range(last + 1):
            driver.execute_script(
                'arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event("input"))',
                slider, frame,
            )  # fmt: skip
            assert page.text('frame-name').startswith(f'{frame} of {last}')
            assert page.colours('imagined') > 50
        plain = page.colours('imagined')
        driver.find_element('css selector', '[data-overlay=flow]').click()
        wait_until(lambda: page.colours('imagined') != plain, PATIENCE, 'the flow')
        wait_until(lambda: page.text('residual-now') != '', PATIENCE, 'the residual')
        wait_until(lambda: 'translate' in page.text('latency-now'), PATIENCE, 'latencies')

        # Stop in motion: the robot holds, and says why.
        page.send_goal(prompts[1])
        page.wait_for_state('RUNNING')
        page.element('stop').click()
        page.wait_for_state('STOPPED')
        assert 'stop' in page.text('state-reason')
        page.wait_for_goal(prompts[1], 'CANCELLED', 'ABORTED')
        assert np.ptp(positions(client, 20)[-10:], axis=0).max() < 1e-3

        page.element('reset').click()
        page.wait_for_state('READY')
        page.send_goal(prompts[1])
        page.wait_for_goal(prompts[1], 'SUCCEEDED')


def positions(client, count: int) -> np.ndarray:
    from sensor_msgs.msg import JointState

    heard: list = []
    subscription = client.node.create_subscription(JointState, 'joint_states', heard.append, STATE)
    assert client.until(lambda: len(heard) >= count, PATIENCE)
    client.node.destroy_subscription(subscription)
    return np.array([msg.position for msg in heard])


@pytest.mark.timeout(300)
def test_on_a_phone_stop_is_always_in_sight_and_nothing_is_wider_than_the_screen(graph, tmp_path):
    _, address = graph
    with browser(tmp_path / 'profile', FLAT) as driver:
        screen = {'width': 390, 'height': 844, 'deviceScaleFactor': 2, 'mobile': True}
        driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', screen)
        page = Page(driver, address)
        words = 'the robot does not follow; something holds it; reset when it is free ' * 2
        for reason in (page.text('state-reason'), words):
            driver.execute_script(
                'document.getElementById("state-reason").textContent = arguments[0]', reason
            )
            assert driver.execute_script('return document.documentElement.scrollWidth') <= 390
        for share in (0.0, 0.5, 1.0):
            driver.execute_script(
                'scrollTo(0, arguments[0] * document.documentElement.scrollHeight)', share
            )
            for name in ('stop', 'goal', 'state-name'):
                box = page.element(name).rect
                top = box['y'] - driver.execute_script('return scrollY')
                assert top >= 0 and top + box['height'] <= 844, name
                assert box['x'] >= 0 and box['x'] + box['width'] <= 390, name
        stop = page.element('stop').rect
        assert min(stop['width'], stop['height']) >= 40  # for a thumb
