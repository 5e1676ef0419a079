"""A node that the tests run as a process; what it does is said by its parameter `mode`."""

import ctypes
import sys
import threading
import time

from std_msgs.msg import String

from vera_core.nodes.base import ERROR, VeraNode, run_node
from vera_core.nodes.qos import LATCHED

MODES = (
    *('ok', 'no-setup', 'slow-setup', 'no-start', 'no-halt', 'crash', 'fail'),
    *('stuck', 'stuck-callback', 'stuck-library'),
)


class ProbeNode(VeraNode):
    def __init__(self, **kwargs):
        super().__init__('probe', **kwargs)
        self.calls = []

    def say(self, text):
        self.calls.append(text)
        print(text, flush=True)

    def setup(self):
        self.say('setup')
        self.rate = self.param('rate', 50.0, 'of the timer [Hz]', low=1.0, high=100.0)
        self.mode = self.param('mode', 'ok', 'what goes wrong', choices=MODES)
        self.words = self.create_publisher(String, 'words', LATCHED)
        if self.mode == 'slow-setup':
            time.sleep(60)
        if self.mode == 'no-setup':
            raise ValueError('the arm is not there;\n  plug it in')

    def start(self):
        self.say('start')
        if self.mode == 'no-start':
            raise RuntimeError('the arm does not answer')
        self.words.publish(String(data='begun'))
        self.create_timer(1 / self.rate, self.on_timer)
        self.report('arm', ERROR, 'is cold', temperature=4)

    def on_timer(self):
        with self.monitor('timer'):
            if self.mode == 'crash':
                raise ZeroDivisionError('in a callback')
            if self.mode == 'fail':
                self.fail('the arm is gone')
            if self.mode == 'stuck-callback':
                threading.Event().wait()

    def halt(self):
        self.say('halt')
        self.words.publish(String(data='safe'))
        if self.mode == 'no-halt':
            raise OSError('the arm does not listen')
        if self.mode == 'stuck':
            threading.Event().wait()
        if self.mode == 'stuck-library':
            # As rclpy's C++ it keeps all other Python from running; the second time is for ever.
            mutex, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
            library.pthread_mutex_lock(mutex)
            library.pthread_mutex_lock(mutex)

    def teardown(self):
        self.say('teardown')


if __name__ == '__main__':
    count = int(sys.argv[1])
    sys.exit(run_node(ProbeNode, threads=count))
