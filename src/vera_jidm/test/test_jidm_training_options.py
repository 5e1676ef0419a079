"""Options of the training program: early stop, parts of a batch, processes, scales, families."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jidm_toys import CONTRACT, SIZE, write_folder
from safetensors.numpy import load_file

from vera_core.checkpoint import find_checkpoint
from vera_jidm import training
from vera_jidm.dataset import AnalyticSource, DatasetError, ShardFolder, TransitionStore
from vera_jidm.evaluation import evaluate
from vera_jidm.model import Scales, load_model
from vera_jidm.recipe import TrainingConfig, TrainingError, parse_settings
from vera_jidm.training import Trainer, make_network, train

TESTS = Path(__file__).parent


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('options')
    write_folder(root / 'train', 2, 40)
    write_folder(root / 'test', 1, 20, seed=9)
    return root / 'train', root / 'test'


def recipe(**changes):
    values = {
        'flow': 'analytic', 'steps': 12, 'batch': 8, 'evaluate_every': 2, 'save_every': 2,
        'widths': (8, 16), 'stem': 8, 'precision': 'float32', 'photometric': 1.0,
    }
    return TrainingConfig(**{**values, **changes})


def trainer(folder, **changes):
    config = recipe(**changes)
    shards = ShardFolder(folder)
    store = TransitionStore(shards, AnalyticSource(2), config.batch, config.seed)
    torch.manual_seed(config.seed)
    scales = Scales(shards.action_scale, shards.action_max, store.prepare())
    return Trainer(config, store, make_network(config, CONTRACT), scales)


def errors(sequence, monkeypatch):
    """Held-out errors as a script: what each evaluation finds."""
    remaining = list(sequence)
    real = training.evaluate

    def scripted(*args, **options):
        found = real(*args, **options)
        if options.get('most') == 200:
            found['mse_stacked'] = remaining.pop(0)
        return found

    monkeypatch.setattr(training, 'evaluate', scripted)
    return remaining


def test_stops_when_it_gets_no_better_and_keeps_the_best(folders, tmp_path, monkeypatch):
    kept = []
    left = errors([0.5, 0.3, 0.4, 0.35, 0.2], monkeypatch)
    measure = training._Run._measure

    def watching(self):
        found = measure(self)
        kept.append({k: v.clone() for k, v in self.trainer.average.items()})
        return found

    monkeypatch.setattr(training._Run, '_measure', watching)
    metrics = train(recipe(early_stop=2), CONTRACT, *folders, tmp_path, 'toy')
    assert metrics['steps'] == 8 and left == [0.2]
    written = load_file(tmp_path / 'toy.safetensors')
    for name, tensor in kept[1].items():
        np.testing.assert_array_equal(written[name], tensor.numpy())
    assert any(not torch.equal(kept[1][k], kept[3][k]) for k in kept[1])


def test_resuming_with_early_stop_changes_nothing(folders, tmp_path, monkeypatch):
    config, script = recipe(early_stop=3), [0.5, 0.3, 0.4, 0.35, 0.31, 0.1]
    errors(script, monkeypatch)
    whole = train(config, CONTRACT, *folders, tmp_path / 'whole', 'toy')
    monkeypatch.undo()

    advance = Trainer.advance

    def interrupted(self):
        if self.step == 7:
            raise KeyboardInterrupt
        return advance(self)

    left = errors(script, monkeypatch)
    monkeypatch.setattr(Trainer, 'advance', interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, CONTRACT, *folders, tmp_path / 'parts', 'toy')
    state = json.loads((tmp_path / 'parts' / 'toy.state.json').read_text())
    assert (state['step'], state['lowest'], state['waited']) == (7, 0.3, 1)
    monkeypatch.setattr(Trainer, 'advance', advance)
    parts = train(config, CONTRACT, *folders, tmp_path / 'parts', 'toy', resume=True)
    assert parts['steps'] == whole['steps'] == 10 and left == [0.1]
    a = load_file(tmp_path / 'whole' / 'toy.safetensors')
    b = load_file(tmp_path / 'parts' / 'toy.safetensors')
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_the_curve_can_have_data_of_its_own(folders, tmp_path):
    write_folder(tmp_path / 'validation', 1, 10, seed=5)
    metrics = train(
        recipe(steps=2), CONTRACT, *folders, tmp_path, 'toy', validation=tmp_path / 'validation'
    )
    assert metrics['n'] == 20
    info = find_checkpoint('toy', [tmp_path], kind='idm')
    found = evaluate(load_model(info), ShardFolder(tmp_path / 'validation'), 'analytic')
    point = json.loads((tmp_path / 'toy.curve.json').read_text())['points'][-1]
    assert point['held_out'] == pytest.approx(found['mse_stacked'], rel=1e-5)


def gradients(one, parts=1):
    batch = one.store.batch(0)
    for k in range(parts):
        (one.loss(batch, k)['loss'] / parts).backward()
    return torch.cat([p.grad.flatten() for p in one.net.parameters()])


@pytest.mark.parametrize('kind', ['jacobian', 'direct_flow'])
def test_parts_of_a_batch_add_up_to_it(folders, kind):
    # Augmentation included; the soft ceiling of the action term alone depends on the parts.
    options = {'translator': kind, 'warm_up': 1.0}
    whole = gradients(trainer(folders[0], **options))
    parts = gradients(trainer(folders[0], accumulate=4, **options), 4)
    assert float(whole.norm()) > 1e-3
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_accumulation_trains_like_one_batch(folders):
    one, four = trainer(folders[0], warm_up=1.0), trainer(folders[0], warm_up=1.0, accumulate=4)
    for _ in range(2):
        a, b = one.advance(), four.advance()
        assert a['loss'] == pytest.approx(b['loss'], rel=1e-4)


WORKER = """
import sys
sys.path.insert(0, {tests!r})
import torch
from test_jidm_training_options import trainer, gradients
from pathlib import Path
one = trainer(Path({folder!r}), warm_up=0.0, moving_weight=8.0)
gradients(one)
one.processes.mean_gradients(one.net.parameters())
flat = torch.cat([p.grad.flatten() for p in one.net.parameters()])
assert one.processes.count == 2
assert one.processes.share(float(one.processes.index + 5)) == 5.0
one.processes.wait()
torch.save(flat, {out!r} + str(one.processes.index))
"""


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(folders, tmp_path):
    pytest.importorskip('accelerate')
    # The data's statistics are on disk already, so that two processes need not write them.
    whole = gradients(trainer(folders[0], warm_up=0.0, moving_weight=8.0))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    code = textwrap.dedent(WORKER).format(
        tests=str(TESTS), folder=str(folders[0]), out=str(tmp_path / 'grad')
    )
    workers = []
    for rank in range(2):
        env = {
            **os.environ, 'WORLD_SIZE': '2', 'RANK': str(rank), 'LOCAL_RANK': str(rank),
            'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'OMP_NUM_THREADS': '1',
            'PYTHONPATH': os.pathsep.join(p for p in sys.path if p),
        }
        workers.append(
            subprocess.Popen([sys.executable, '-c', code], env=env, stderr=subprocess.PIPE)
        )
    for worker in workers:
        _, said = worker.communicate(timeout=240)
        assert worker.returncode == 0, said.decode()[-2000:]
    found = [torch.load(tmp_path / f'grad{rank}') for rank in range(2)]
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], whole, rtol=1e-4, atol=1e-6)


def test_several_processes_want_accelerate(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setitem(sys.modules, 'accelerate', None)
    with pytest.raises(TrainingError, match='pip install accelerate'):
        training.Processes()


def test_a_device_that_is_not_there(folders, tmp_path):
    if torch.cuda.is_available():
        pytest.skip('there is one')
    with pytest.raises(TrainingError, match='device cuda is not there'):
        train(recipe(device='cuda'), CONTRACT, *folders, tmp_path, 'toy')


def test_tensorboard(folders, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(recipe(steps=4), CONTRACT, *folders, tmp_path, 'toy', tensorboard=True)
    events = EventAccumulator(str(tmp_path / 'toy.tensorboard'))
    events.Reload()
    assert {'train/loss', 'train/flow', 'train/rate', 'held_out/mse'} <= set(
        events.Tags()['scalars']
    )
    points = json.loads((tmp_path / 'toy.curve.json').read_text())['points']
    logged = [e.value for e in events.Scalars('held_out/mse')]
    assert logged == pytest.approx([p['held_out'] for p in points], rel=1e-5)
    picture = events.Images('jacobian')[0]
    assert (picture.height, picture.width) == (SIZE, 3 * SIZE)


def test_tensorboard_without_the_package(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(TrainingError, match='pip install tensorboard'):
        train(recipe(steps=1), CONTRACT, *folders, tmp_path, 'toy', tensorboard=True)


def test_scales_of_what_moves(folders, tmp_path):
    found = {}
    for kind in ('rms', 'p90'):
        train(recipe(steps=1, scales=kind), CONTRACT, *folders, tmp_path, kind)
        found[kind] = load_model(find_checkpoint(kind, [tmp_path], kind='idm')).scales
    shards = ShardFolder(folders[0])
    np.testing.assert_allclose(found['p90'].action, shards.statistics.action_scale('p90'))
    assert (found['p90'].action > found['rms'].action).all()
    assert found['p90'].flow > found['rms'].flow


def test_the_measure_does_not_depend_on_the_scales(folders):
    """Zero actions have an error of one, whatever the network's units are."""
    shards = ShardFolder(folders[1])
    for factor in (1.0, 3.0):
        one = trainer(folders[0])
        one.scales = Scales(factor * shards.action_scale, shards.action_max, 1.0)
        one.objective.scales = one.scales
        with torch.no_grad():
            for p in one.net.parameters():
                p.zero_()
            one.average = {k: torch.zeros_like(v) for k, v in one.average.items()}
        metrics = evaluate(one.model('analytic'), shards, 'analytic')
        assert metrics['mse_stacked'] == pytest.approx(1.0)


def test_networks_of_a_recipe():
    base = make_network(recipe(head='pixel'), CONTRACT)
    assert base.config.head == 'pixel' and not base.config.confidence
    sure = make_network(recipe(confidence=1.0, network={'merge': 16}), CONTRACT)
    assert sure.config.confidence and sure.config.merge == 16
    with pytest.raises(TrainingError, match='no network family'):
        make_network(recipe(family='oracle'), CONTRACT)
    with pytest.raises(TrainingError, match='matched to the convolutional'):
        make_network(recipe(translator='direct_flow', network={'merge': 16}), CONTRACT)


def test_every_variant_trains(folders, tmp_path):
    config = recipe(
        steps=40, rate=3e-3, evaluate_every=20, latent=1.0, jpeg=1.0, scales='p90',
        moving_weight=8.0, inverse_loss='smooth_l1', flow_gradient=0.25, smoothness=0.005,
        confidence=0.1,
    )
    metrics = train(config, CONTRACT, *folders, tmp_path, 'toy')
    assert metrics['mse_stacked'] < 0.3


def test_a_teacher_needs_positions(folders):
    contract = SimpleNamespace(**vars(CONTRACT))
    contract.joints = (SimpleNamespace(name='elbow'),)
    with pytest.raises(DatasetError, match="no positions of 'elbow'"):
        training._teacher(contract, ShardFolder(folders[0]), 2)


@pytest.mark.skipif(sys.platform != 'linux', reason='an allocator of its own')
def test_freed_memory_is_kept():
    """In a process of its own: what is set cannot be taken back."""
    code = textwrap.dedent("""
        import os, sys
        import numpy as np
        from vera_jidm.allocator import keep_freed_memory

        def resident():
            with open('/proc/self/statm') as file:
                return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20

        if sys.argv[1] == 'keep' and not keep_freed_memory():
            print('cannot')
            sys.exit()
        before = resident()
        some = [np.ones(1 << 20) for _ in range(16)]
        del some
        print(resident() - before)
    """)
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)}

    def left(how):
        out = subprocess.run([sys.executable, '-c', code, how], env=env, capture_output=True)
        return out.stdout.decode().strip()

    kept = left('keep')
    if kept == 'cannot':
        pytest.skip('not glibc')
    # 128 MB were freed.
    assert float(kept) > 100 > 60 > float(left('give back'))


def test_settings_as_text():
    found = parse_settings(
        ['rate=5e-4', 'widths=8,16', 'balance_views=true', 'early-stop=3', 'network={"merge": 16}',
         'device=cpu']
    )
    assert found == {
        'rate': 5e-4, 'widths': (8, 16), 'balance_views': True, 'early_stop': 3,
        'network': {'merge': 16}, 'device': 'cpu',
    }
    TrainingConfig(**found)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('rote=1', 'no setting'), ('rate', 'FIELD=VALUE'), ('rate=fast', 'a number'),
        ('steps=1.5', 'a whole number'), ('balance_views=maybe', 'true or false'),
        ('widths=a,b', 'whole numbers'), ('network=3', 'a JSON object'),
    ],
)
def test_settings_that_make_no_sense(text, words):
    with pytest.raises(TrainingError, match=words):
        parse_settings([text])


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'accumulate': 3}, 'cannot be accumulated'),
        ({'precision': 'float16'}, 'needs device cuda'),
        ({'device': 'tpu'}, 'no device'),
        ({'jpeg': 9.0}, 'augmentation jpeg'),
        ({'smoothness': -1.0}, 'smoothness'),
        ({'max_view_weight': 0.5}, 'max_view_weight'),
        ({'reduction': 'median'}, 'no reduction'),
        ({'scales': 'max'}, 'no scales'),
    ],
)
def test_options_that_make_no_sense(changes, words):
    with pytest.raises(TrainingError, match=words):
        recipe(**changes)
