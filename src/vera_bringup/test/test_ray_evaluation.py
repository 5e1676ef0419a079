"""What `--ray` asks of Ray and makes of its errors; a small fake stands in for it."""

from __future__ import annotations

import sys
import types

import pytest

from vera_bringup import ray_evaluation
from vera_bringup.evaluation import EvaluationOptions


class TaskError(Exception):
    """As Ray's: the real error is its cause."""

    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class Actor:
    """As an actor's handle."""

    def __init__(self, made):
        def remote(index):
            try:
                return made.run(index)
            except ValueError as error:
                raise TaskError(error) from error

        self.run = types.SimpleNamespace(remote=remote)


class Pool:
    """As ray.util.ActorPool, one after the other; the last first, as results come in any order."""

    def __init__(self, actors):
        self.actors = actors

    def map_unordered(self, call, values):
        for k, value in enumerate(reversed(list(values))):
            yield call(self.actors[k % len(self.actors)], value)


class Runner:
    """In place of the one that loads organs."""

    def __init__(self, contract, options):
        self.contract = contract

    def run(self, index):
        if index == 13:
            raise ValueError('no weights here')
        return index, self.contract


@pytest.fixture
def ray(monkeypatch):
    done = []
    fake = types.SimpleNamespace(
        calls=done,
        init=lambda **more: done.append(more),
        shutdown=lambda: done.append('shutdown'),
        remote=lambda **more: lambda kind: types.SimpleNamespace(
            remote=lambda *args: Actor(kind(*args))
        ),
        exceptions=types.SimpleNamespace(RayTaskError=TaskError, ActorDiedError=KeyError),
    )
    monkeypatch.setitem(sys.modules, 'ray', fake)
    monkeypatch.setitem(sys.modules, 'ray.util', types.SimpleNamespace(ActorPool=Pool))
    monkeypatch.setattr(ray_evaluation, 'Runner', Runner)
    return fake


def test_every_episode_comes_back_from_as_many_actors_as_jobs(ray):
    options = EvaluationOptions(ray='auto', jobs=3)
    found = list(ray_evaluation.evaluate_with_ray('contract', options, [4, 5, 6, 7]))
    assert sorted(found) == [(k, 'contract') for k in (4, 5, 6, 7)]
    assert ray.calls[0]['address'] == 'auto' and ray.calls[-1] == 'shutdown'
    list(ray_evaluation.evaluate_with_ray('c', EvaluationOptions(ray='local', jobs=2), [1]))
    assert ray.calls[-2]['address'] is None and ray.calls[-2]['num_cpus'] == 2


def test_an_error_of_an_actor_is_the_error_itself_and_the_cluster_is_left(ray):
    with pytest.raises(ValueError, match=r'^no weights here$'):
        list(ray_evaluation.evaluate_with_ray('c', EvaluationOptions(ray='auto'), [12, 13]))
    assert ray.calls[-1] == 'shutdown'


def test_a_cluster_that_does_not_answer_is_named(ray):
    def init(**_):
        raise ConnectionError('refused')

    ray.init = init
    with pytest.raises(ValueError, match=r"answers at '10.0.0.1:6379': refused"):
        list(ray_evaluation.evaluate_with_ray('c', EvaluationOptions(ray='10.0.0.1:6379'), [1]))
