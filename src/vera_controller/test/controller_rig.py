"""A controller with a simulated servo and clocks held in hand, for tests."""

import numpy as np

from vera_controller.controller import Controller
from vera_core.clocks import ManualClock
from vera_core.seams import RobotState

MS = 1_000_000
T0 = 1_795_000_000_000_000_000
OMEGA = 60.0


class Rig:
    """A controller, its robot (critically damped servos), and time."""

    def __init__(self, contract, lockstep=False, **kw):
        self.mono = ManualClock(12345)
        self.controller = Controller(contract, clock=self.mono, lockstep=lockstep, **kw)
        self.contract = contract
        self.now = T0
        self.q = contract.home_positions
        self.dq = np.zeros_like(self.q)
        self.target = self.q.copy()
        self.commands = []
        self.sensing = self.obeying = True
        self.controller.enable()

    def publish_state(self):
        return self.controller.on_state(RobotState(self.now, self.q.copy(), self.dq.copy()))

    def step(self, ticks=1, dt=10 * MS, until=None):
        for _ in range(ticks):
            set_point = self.controller.tick(self.now)
            if set_point is not None:
                self.commands.append(set_point)
                self.target = set_point.positions if self.obeying else self.target
            self._physics(dt / 1e9)
            self.now += dt
            self.mono.advance(dt)
            if self.sensing:
                self.publish_state()
            if until is not None and until():
                return

    def _physics(self, dt):
        error = self.q - self.target
        slope = self.dq + OMEGA * error
        decay = np.exp(-OMEGA * dt)
        self.q = self.target + (error + slope * dt) * decay
        self.dq = (slope - OMEGA * (error + slope * dt)) * decay

    def put(self, q):
        """Somebody moves the robot."""
        self.q = np.array(q, dtype=np.float64)
        self.dq = np.zeros_like(self.q)
        self.target = self.q.copy()
        self.now += MS
        self.mono.advance(MS)
        self.publish_state()

    @property
    def status(self):
        return self.controller.status(self.now)

    @property
    def state(self):
        return self.status.state

    def fast(self):
        """The largest speed among the joints of the last set-point."""
        return np.abs(self.commands[-1].velocities).max()

    def check_limits(self):
        """Every set-point sent is reachable from the one before."""
        stamps = [c.stamp for c in self.commands]
        q = np.array([c.positions for c in self.commands])
        dt = np.diff(stamps)[:, None] / 1e9
        v = np.diff(q, axis=0) / dt
        limits = self.controller.limits
        assert (q >= limits.low).all() and (q <= limits.high).all()
        assert (np.abs(v) <= limits.velocity + 1e-9).all()
        assert (np.abs(np.diff(v, axis=0)) / dt[1:] <= limits.acceleration + 1e-6).all()
