"""`vera eval` as a harness: loops, resume, page, Ray; dreams judged by pieces, followed, scored."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest

from vera_bringup import dream_study, video_bench
from vera_bringup import evaluation as work
from vera_bringup.commands import evaluate as command
from vera_bringup.dream_judge import nearer
from vera_bringup.evaluation import EvaluationOptions, check, evaluate, evaluation_contract
from vera_bringup.exits import CommandError
from vera_bringup.piece_judge import PieceJudge, load_judge_planner
from vera_bringup.statistics import to_row
from vera_bringup.video_metrics import VideoMetrics, find_metrics, psnr
from vera_core.seams import Plan
from vera_drivers.sim_world import make_world
from vera_jidm.registry import make_translator
from vera_planner.oracle import OraclePlanner
from vera_sim.pieces import block_at, pusht_poses

FINGER = evaluation_contract('finger')


def run(tmp_path, **options):
    values = {'planner': 'oracle', 'episodes': 2, 'seed': 1, 'frames': 8} | options
    command.run(
        'finger', EvaluationOptions(**values), False, True, None, 'vera', tmp_path,
        tmp_path / 'out', 2,
    )


@pytest.mark.timeout(300)
def test_episodes_that_are_there_are_not_run_again(tmp_path, capsys, monkeypatch):
    run(tmp_path)
    rows = (tmp_path / 'out' / 'rows.jsonl').read_text().splitlines()
    assert [json.loads(row)['index'] for row in rows] == [0, 1]
    run_again, ran = work.Runner.run, []
    monkeypatch.setattr(
        work.Runner, 'run', lambda self, index: ran.append(index) or run_again(self, index)
    )
    run(tmp_path, episodes=3)
    assert ran == [2]
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report['n'] == 3 and report['loop'] == 'lockstep' and report['underruns'] == 0
    assert report['clip_ratio'] is not None and report['jerk'] > 0
    page = (tmp_path / 'out' / 'report.html').read_text()
    # Nothing is reached in 8 frames: the two worst of three have a video.
    assert page.count('<video') == 2 and 'Time was up after 1.6 s' in page
    with pytest.raises(CommandError, match='seed: 1 there, 2 now'):
        run(tmp_path, seed=2)


@pytest.mark.timeout(300)
def test_who_watches_changes_nothing():
    for embodiment in ('finger', 'pusht'):
        contract = evaluation_contract(embodiment)
        found = []
        for judge in (True, False):
            # An oracle is judged only where a gate asks for it.
            options = EvaluationOptions(
                planner='oracle', episodes=1, seed=4, frames=12, keep=True, judge=judge,
                film=judge, gate='report',
            )
            found.append(next(evaluate(contract, options)))
        watched, alone = found
        assert np.array_equal(watched.commands, alone.commands)
        assert all(watched.dreams) and len(watched.dreams) >= 2 and alone.dreams == ()
        assert min(watched.realised) > 0.5 and watched.execution_success
        height, width = contract.canvas.height, contract.canvas.width
        assert watched.film.shape == (13, 2, height, width, 3)
        # What was dreamt for a moment is near what was seen then, and not the same.
        seen, dreamt = watched.film[3].astype(float)
        assert 0 < np.abs(seen - dreamt).mean() < np.abs(watched.film[0, 0] - seen).mean() + 2


@pytest.mark.timeout(300)
def test_a_slow_planner_is_evaluated_while_the_world_goes_on():
    options = EvaluationOptions(planner='oracle', episodes=1, seed=1, latency=0.5)
    results = {
        loop: next(evaluate(FINGER, replace(options, loop=loop, film=loop == 'sync')))
        for loop in ('sync', 'async', 'servo')
    }
    assert all(r.success for r in results.values())
    assert results['sync'].underruns > results['async'].underruns == 0
    assert min(results['async'].plan_ages) >= 0.5 and results['async'].jerk > 0
    assert min(results['async'].realised) > 0.4 and results['sync'].setpoints > 0
    assert results['sync'].film.shape[1:] == (2, 64, 64, 3)
    assert json.dumps(to_row(results['servo']))


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'latency': 1.0}, 'choose --loop'),
        ({'loop': 'fast'}, "no mode 'fast'"),
        ({'loop': 'async', 'planner': 'random'}, 'leave --loop out'),
        ({'loop': 'async', 'gate': 'on'}, 'are for --loop lockstep'),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        check(FINGER, EvaluationOptions(**options))


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (9,)


@pytest.mark.timeout(200)
def test_a_process_that_is_killed_ends_the_evaluation_with_a_word():
    with pytest.raises(ValueError, match='a process of the evaluation was ended'):
        list(work._with_processes(Deadly(), EvaluationOptions(jobs=2), [0, 1]))


@pytest.mark.timeout(300)
def test_ray_gives_the_same_episodes():
    pytest.importorskip('ray', reason='Ray is not installed')
    options = EvaluationOptions(planner='random', episodes=3, seed=5, frames=10, keep=True, jobs=2)
    alone = list(evaluate(FINGER, replace(options, jobs=1)))
    spread = sorted(evaluate(FINGER, replace(options, ray='local')), key=lambda r: r.index)
    assert [r.seed for r in alone] == [r.seed for r in spread]
    for a, b in zip(alone, spread, strict=True):
        assert np.array_equal(a.commands, b.commands)
    with pytest.raises(ValueError, match="unknown planner 'x'"):
        list(evaluate(FINGER, replace(options, ray='local', planner='x')))


def test_ray_that_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'ray', None)
    with pytest.raises(ValueError, match='pip install ray'):
        list(evaluate(FINGER, EvaluationOptions(ray='auto')))


def test_a_picture_is_nearer_where_the_others_differ():
    own, other = np.zeros((2, 8, 8, 3), np.uint8)
    other[:4] = 200
    image = own.copy()
    image[5:] = 90  # both are dark there
    assert nearer(image, own, other) and not nearer(other, own, other)
    assert nearer(other, own, own)


def test_a_block_is_where_its_piece_is():
    env = make_world(evaluation_contract('pusht')).env
    for seed in range(4):
        env.reset(seed)
        state = env.scene()
        found = block_at(pusht_poses(state, 96)[2], 96)
        assert found[:2] == pytest.approx(state.block[:2], abs=1e-3)
        assert np.cos(found[2] - state.block[2]) == pytest.approx(1, abs=1e-6)


@pytest.mark.timeout(200)
@pytest.mark.parametrize('embodiment', ['finger', 'pusht'])
def test_pictures_alone_tell_whether_a_goal_was_reached(embodiment):
    contract = evaluation_contract(embodiment)
    world, eyes = make_world(contract), load_judge_planner(contract)
    for seed in range(3):
        world.reset(seed, world.next_episode())
        target = world.env.objects[0]
        if embodiment == 'finger':
            path = world.env.expert_joint_path(target, 45)
            frames = [world._tiled(world.env.render_at(q)) for q in path[::2]]
            frames += [frames[-1]] * 4
        else:
            block = np.array([256.0, 256.0, np.pi / 4])
            state = world.env.scene()
            frames = [
                world._tiled(world.env.render_scene(replace(state, block=block + shift)))
                for shift in ((90, 40, 0.5), (40, 10, 0.2), (4, 2, 0.02))
            ]
        judge = PieceJudge(eyes, world)
        judge.see(np.stack(frames[:2]))
        assert judge.reached == ''
        judge.see(np.stack(frames[2:]))
        assert judge.reached == target


@pytest.mark.timeout(300)
def test_dreams_and_reality_of_some_variants():
    study = dream_study.DreamStudy(FINGER, 2, ['as shipped', '75% frozen'])  # comes true
    study.frames = 24
    rows = list(study.rows(1))
    again = list(study.rows(1, rows[:1]))
    assert again == rows[1:]
    shipped = rows[0]
    assert shipped['dreamt'] == shipped['reached'] == shipped['judged'] == shipped['target']
    found = dream_study.summary(rows, study.variants)
    assert found['judge']['n'] == 2 and found['planners']['variants'] == 2
    assert 'as shipped' in dream_study.markdown(rows, found)
    with pytest.raises(ValueError, match="no variant 'best'"):
        dream_study.DreamStudy(FINGER, 0, ['best'])
    with pytest.raises(ValueError, match='cannot be judged'):
        dream_study.DreamStudy(evaluation_contract('panda'), 0)


def test_correlation_counts_planners_apart():
    rows = [
        {'variant': name, 'index': i, 'target': 'a', 'judged': '',
         'dreamt': 'a' if i < d else '', 'reached': 'a' if i < r else ''}
        for name, d, r in (('as shipped', 4, 4), ('30% wrong words', 3, 2),
                           ('wrong words', 0, 1), ('weak actions', 4, 0))
        for i in range(4)
    ]
    found = dream_study.summary(rows, dream_study.FINGER)
    assert found['planners']['r'] == pytest.approx(np.corrcoef([4, 3, 0], [4, 2, 1])[0, 1])
    assert math.isnan(found['planners']['r_low'])
    assert found['all']['variants'] == 4 and found['all']['r'] < found['planners']['r']
    assert found['all']['bias'] == pytest.approx((0 + 0.25 - 0.25 + 1) / 4)


class Still:
    """Imagines that nothing happens."""

    planner_id, checkpoint_hash = 'still', ''

    def plan(self, context, prompt, *, seed=0, warm_start=None):
        return Plan(np.repeat(context[-1:], 4, axis=0), 0.2)


@pytest.mark.timeout(200)
def test_a_dream_that_can_be_done_is_followed_and_a_still_one_is_no_expert():
    translator = make_translator('jacobian', FINGER)
    metrics = VideoMetrics(
        {'psnr': psnr}, {'worst': lambda a, b: float(np.abs(a.astype(int) - b).max())},
        {'fvd': 'needs something'},
    )
    found = {}
    for name, make in (
        ('oracle', lambda future: OraclePlanner(future, FINGER)), ('still', lambda _: Still()),
    ):
        clips = list(video_bench.clips(FINGER, make, translator, 2, 6, 3))
        found[name] = video_bench.measure(clips, metrics)
    oracle, still = found['oracle'], found['still']
    assert min(oracle['dream']['psnr']['mean']) > 90  # it is the expert's own video
    followed, nothing = oracle['done']['psnr']['mean'], oracle['still']['psnr']['mean']
    assert followed[-1] > nothing[-1] + 3 and nothing[0] > nothing[-1]
    assert max(oracle['following']['unrealised']['mean'][1:]) < 0.5
    assert still['dream'] == {**still['still']}
    assert oracle['dream']['worst'] == 0 and oracle['still']['worst'] > 50
    text = video_bench.table(oracle)
    assert 'frame 4' in text and 'fvd is left out: needs something' in text


def test_metrics_that_are_not_installed_are_named_with_the_cure(monkeypatch):
    modules = __import__('sys').modules
    for name in ('torchmetrics', 'torchmetrics.functional.image', 'lpips', 'cdfvd'):
        monkeypatch.setitem(modules, name, None)
    found = find_metrics()
    assert list(found.frames) == ['psnr'] and not found.sets
    for name, cure in (('ssim', 'torchmetrics'), ('lpips', 'torchvision'), ('fvd', 'cd-fvd')):
        assert f'pip install {cure if name != "lpips" else "lpips"}' in found.missing[name]
        assert cure in found.missing[name]


def test_installed_metrics_get_what_they_ask_for(monkeypatch):
    """Fakes of lpips and cd-fvd at their seams; torchmetrics is the real one."""
    import types

    import torch

    class Network:
        def eval(self):
            return self

        def __call__(self, a, b):
            assert a.shape == (5, 3, 64, 64) and a.min() >= -1 and a.max() <= 1
            return (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)

    class Videos:
        def compute_fvd(self, real, fake):
            assert real.dtype == np.uint8 and real.shape == (2, 12, 64, 64, 3)
            return torch.tensor(float(np.abs(real.astype(int) - fake).mean()))

    lpips = types.SimpleNamespace(LPIPS=lambda net, verbose: Network())
    fvd = types.SimpleNamespace(cdfvd=lambda model, device: Videos())
    monkeypatch.setitem(__import__('sys').modules, 'lpips', lpips)
    monkeypatch.setitem(__import__('sys').modules, 'cdfvd', types.SimpleNamespace(fvd=fvd))
    pytest.importorskip('torchmetrics')
    found = find_metrics()
    assert found.missing == {} and list(found.frames) == ['psnr', 'ssim', 'lpips']
    a = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3)).astype(np.uint8)
    b = a // 2
    assert found.frames['ssim'](a, a) == pytest.approx(np.ones(5), abs=1e-5)
    assert (found.frames['ssim'](a, b) < 0.99).all()
    assert found.frames['lpips'](a, a) == pytest.approx(np.zeros(5))
    # 20 log10(255 / 5.1): a difference of 5.1 everywhere would give 33.98 dB.
    assert psnr(a, a).min() > 100 and psnr(np.full_like(a, 10), np.full_like(a, 15)) == (
        pytest.approx(np.full(5, 20 * np.log10(255 / 5)))
    )
    videos = np.zeros((2, 12, 64, 64, 3), np.uint8)
    assert found.sets['fvd'](videos, videos + 3) == 3
    assert math.isnan(found.sets['fvd'](videos[:, :4], videos[:, :4]))
