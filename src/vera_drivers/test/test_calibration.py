"""Hand-eye calibration on rendered pictures of a board whose truth is known."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from vera_core.contract import Calibration, load_contract
from vera_core.kinematics.transforms import inverse, transform
from vera_core.rotations import (
    matrix_from_rotation_vector,
    quaternion_from_matrix,
    rotation_vector,
)
from vera_core.state_history import StateHistory
from vera_drivers.calibration import Board, BoardError, CalibrationError, View, solve
from vera_drivers.calibration.contract_text import block, with_calibration, write_calibration
from vera_drivers.calibration.samples import FILE, Collector, mounting, read_samples
from vera_drivers.cameras.base import Intrinsics

# By its path: pytest's importlib mode does not put this folder on sys.path.
_SPEC = importlib.util.spec_from_file_location(
    'board_views', Path(__file__).with_name('board_views.py')
)
scene = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(scene)

PANDA = 'panda'


def error(found, truth):
    """Position error [mm] and angle [deg] between two transforms."""
    return (
        1e3 * np.linalg.norm(found[:3, 3] - truth[:3, 3]),
        np.rad2deg(np.linalg.norm(rotation_vector(found[:3, :3].T @ truth[:3, :3]))),
    )


@functools.cache
def whole_board():
    """A detection of all corners."""
    return scene.BOARD.detect(scene.render(transform(translation=(-0.12, -0.09, 0.5))))


def exact(in_hand, count=15, seed=0, noise=0.0, tilt=0.5):
    """Views whose corners are where the pinhole says, with noise [px]."""
    rng = np.random.default_rng(seed)
    blank = whole_board()
    views = []
    A, Z = scene.poses(count, in_hand, seed, tilt)
    for k, pose in enumerate(A):
        C = scene.board_in_camera(pose, Z, in_hand)
        points = blank.points @ C[:3, :3].T + C[:3, 3]
        pixels = points[:, :2] / points[:, 2:] * scene.LENS.focal + scene.LENS.centre
        seen = dataclasses.replace(blank, pixels=pixels + rng.normal(0, noise, pixels.shape))
        views.append(View(f'{k:03d}.png', seen, pose))
    return views


@pytest.fixture(scope='module', params=[True, False], ids=['in hand', 'fixed'])
def pictures(request):
    """(in_hand, images, poses): rendered, without noise."""
    A, Z = scene.poses(12, request.param, seed=1)
    images = [scene.render(scene.board_in_camera(a, Z, request.param)) for a in A]
    return request.param, images, A


def test_rendered_pictures_give_the_true_mount(pictures):
    in_hand, images, A = pictures
    views = [
        View(f'{k}', scene.BOARD.detect(image), a)
        for k, (image, a) in enumerate(zip(images, A, strict=True))
    ]
    assert all(view.seen.count == 24 for view in views)
    truth = scene.IN_HAND if in_hand else scene.FIXED
    result = solve(views, scene.LENS, scene.SIZE, in_hand=in_hand)
    mm, degrees = error(result.mount, truth)
    assert mm < 0.1
    assert degrees < 0.01
    assert result.rms_px < 0.1
    assert result.rms_mm < 0.2
    assert result.left_out == ()
    assert result.warnings == ()
    # The lens from the same pictures too.
    result = solve(views, None, scene.SIZE, in_hand=in_hand)
    assert result.intrinsics.focal == pytest.approx(scene.LENS.focal, rel=0.003)
    assert result.intrinsics.centre == pytest.approx(scene.LENS.centre, abs=1.5)
    mm, degrees = error(result.mount, truth)
    assert mm < 1.0
    assert degrees < 0.1
    assert result.warnings == ()


@pytest.mark.parametrize('in_hand', [True, False])
def test_exact_corners_give_the_exact_mount(in_hand):
    result = solve(exact(in_hand), scene.LENS, scene.SIZE, in_hand=in_hand)
    mm, degrees = error(result.mount, scene.IN_HAND if in_hand else scene.FIXED)
    assert mm < 1e-3
    assert degrees < 1e-4
    assert result.rms_px < 1e-4


def test_noise_is_told_by_the_standard_errors():
    """The true error is some standard errors, and the residual is the noise."""
    ratios = []
    for seed in range(4):
        result = solve(
            exact(False, seed=seed, noise=0.5), scene.LENS, scene.SIZE, in_hand=False
        )
        assert result.rms_px == pytest.approx(0.5 * np.sqrt(2), rel=0.15)
        mm, degrees = error(result.mount, scene.FIXED)
        assert mm < 3
        assert degrees < 0.3
        ratios += [mm / result.sigma_mm, degrees / result.sigma_deg]
    assert 0.3 < np.median(ratios) < 2.0
    assert max(ratios) < 4.0


def test_noisy_poses_show_in_the_residuals():
    """An arm that is off by 1 mm and 2 mrad: taken for noise of pixels that would cost 5 mm."""
    rng = np.random.default_rng(3)
    ratios = []
    for seed in range(4):
        views = []
        for view in exact(True, count=20, seed=seed):
            turn = matrix_from_rotation_vector(rng.normal(0, 2e-3, 3))
            pose = view.pose @ transform(turn, rng.normal(0, 1e-3, 3))
            views.append(dataclasses.replace(view, pose=pose))
        result = solve(views, scene.LENS, scene.SIZE, in_hand=True)
        mm, degrees = error(result.mount, scene.IN_HAND)
        assert mm < 2.5
        assert degrees < 0.2
        assert 1 < result.rms_mm < 3
        assert result.left_out == ()
        ratios += [mm / result.sigma_mm, degrees / result.sigma_deg]
    assert 0.3 < np.median(ratios) < 2.0


def test_a_picture_that_does_not_fit_is_left_out_and_named():
    views = exact(True, count=14)
    # The arm was somewhere else.
    elsewhere = views[4].pose @ transform(translation=(0.05, 0, 0))
    views[4] = dataclasses.replace(views[4], pose=elsewhere)
    result = solve(views, scene.LENS, scene.SIZE, in_hand=True)
    assert result.left_out == ('004.png',)
    assert '004.png' not in result.view_px
    assert error(result.mount, scene.IN_HAND)[0] < 0.05


def test_too_few_pictures_are_refused():
    views = exact(True, count=7)
    with pytest.raises(CalibrationError, match=r'7 pictures show 6 corners .* 8 are needed'):
        solve(views, scene.LENS, scene.SIZE, in_hand=True)
    few = [
        dataclasses.replace(
            view,
            seen=dataclasses.replace(
                view.seen, pixels=view.seen.pixels[:5], points=view.seen.points[:5]
            ),
        )
        for view in exact(True, count=9)
    ]
    with pytest.raises(CalibrationError, match=r'0 pictures show 6 corners .* \(of 9\)'):
        solve(few, scene.LENS, scene.SIZE, in_hand=True)
    views = exact(True)
    views[3] = dataclasses.replace(views[3], pose=np.full((4, 4), np.nan))
    with pytest.raises(CalibrationError, match=r'the pose of 003\.png is not 4 x 4 finite'):
        solve(views, scene.LENS, scene.SIZE, in_hand=True)


def turned(axis, spread, count=12):
    """Views of an arm that turns about one axis of its own, and shifts."""
    rng = np.random.default_rng(5)
    A, Z = scene.poses(1, True)
    seen = whole_board()
    views = []
    for k in range(count):
        turn = matrix_from_rotation_vector(np.asarray(axis) * rng.uniform(-spread, spread))
        pose = A[0] @ transform(turn, rng.uniform(-0.03, 0.03, 3))
        C = scene.board_in_camera(pose, Z, True)
        points = seen.points @ C[:3, :3].T + C[:3, 3]
        pixels = points[:, :2] / points[:, 2:] * scene.LENS.focal + scene.LENS.centre
        views.append(View(str(k), dataclasses.replace(seen, pixels=pixels), pose))
    return views


def test_poses_that_leave_the_mount_open_are_refused():
    with pytest.raises(CalibrationError, match=r'turned by only 0\.\d degrees'):
        solve(turned((0, 0, 1), 0.01), scene.LENS, scene.SIZE, in_hand=True)
    with pytest.raises(CalibrationError, match='turned about one axis only'):
        solve(turned((0, 0, 1), 0.6), scene.LENS, scene.SIZE, in_hand=True)


def test_poses_of_other_pictures_are_refused():
    views = exact(False)
    mixed = [
        dataclasses.replace(view, pose=other.pose)
        for view, other in zip(views, views[1:] + views[:1], strict=True)
    ]
    with pytest.raises(CalibrationError, match='px from where they should be: the poses are not'):
        solve(mixed, scene.LENS, scene.SIZE, in_hand=False)
    with pytest.raises(CalibrationError, match='px from where they should be'):
        solve(views, scene.LENS, scene.SIZE, in_hand=True)  # the camera is not on the arm


def test_a_board_printed_too_small_is_noticed():
    views = [
        dataclasses.replace(
            view, seen=dataclasses.replace(view.seen, points=view.seen.points / 0.96)
        )
        for view in exact(True, noise=0.1)
    ]
    try:
        told = ' '.join(solve(views, scene.LENS, scene.SIZE, in_hand=True).warnings)
    except CalibrationError as found:
        told = str(found)
    assert 'fit a board 96.0 % as large' in told


def test_a_bent_lens_is_noticed():
    bent = np.array([-0.25, 0.1, 0, 0, 0])
    K = np.array([[610.0, 0, 322.0], [0, 612.0, 238.5], [0, 0, 1]])
    zero = np.zeros(3)
    views = []
    A, Z = scene.poses(15, False, tilt=0.6)
    points = whole_board().points
    for k, pose in enumerate(A):
        C = scene.board_in_camera(pose, Z, False)
        there = points @ C[:3, :3].T + C[:3, 3]
        pixels = cv2.projectPoints(there, zero, zero, K, bent)[0].reshape(-1, 2)
        seen = dataclasses.replace(whole_board(), pixels=pixels)
        views.append(View(str(k), seen, pose))
    try:
        told = ' '.join(solve(views, None, scene.SIZE, in_hand=False).warnings)
    except CalibrationError as found:
        told = str(found)
    assert 'the lens bends straight lines' in told


# The board ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('suffix', ['png', 'pdf'])
def test_the_page_shows_the_board_at_its_size(tmp_path, suffix):
    path = tmp_path / f'board.{suffix}'
    scene.BOARD.save(path)
    if suffix == 'pdf':
        text = path.read_bytes()
        assert text.startswith(b'%PDF')
        # A4 across, in points of 1/72 inch.
        box = text.split(b'MediaBox [')[1].split(b']')[0].split()
        assert [float(x) for x in box[2:]] == pytest.approx([841.9, 595.3], abs=1)
        return
    page = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    seen = scene.BOARD.detect(page)
    assert seen.count == 24
    # One metre of the board is as many dots as 300 dpi make of it.
    spans = np.ptp(seen.pixels, axis=0) / np.ptp(seen.points[:, :2], axis=0)
    assert spans == pytest.approx([300 / 0.0254] * 2, rel=1e-3)
    # The ruler is 100 mm.
    lines = [row for row in page[-400:] < 128 if row.any()]
    lines = [row for row in lines if np.ptp(np.flatnonzero(row)) + 1 == row.sum() > 9]
    assert len(lines) >= 3
    assert all(row.sum() == pytest.approx(1181, abs=2) for row in lines)


def test_boards_that_cannot_be_are_refused(tmp_path):
    for wrong, message in (
        ({'columns': 2}, '3 x 3 is the least'),
        ({'square': 0.0}, 'must be positive'),
        ({'marker': 0.04}, 'do not fit into squares'),
        ({'dictionary': '4X4_5'}, "unknown dictionary '4X4_5'; known: 4X4_100"),
        ({'columns': 20, 'rows': 20}, '20 x 20 squares need 200 markers; 4X4_50 has 50'),
    ):
        with pytest.raises(BoardError, match=message):
            Board(**wrong)
    with pytest.raises(BoardError, match='does not fit on a4'):
        Board(square=0.05).save(tmp_path / 'b.pdf')
    with pytest.raises(BoardError, match=r'is neither \.pdf nor \.png'):
        Board().save(tmp_path / 'b.jpg')
    Board(square=0.05).save(tmp_path / 'b.pdf', 'a3')


# Folders of samples, and the contract -----------------------------------------------------------


def write_folder(folder, link, joints, images, **changes):
    folder.mkdir(exist_ok=True)
    for k, image in enumerate(images):
        cv2.imwrite(str(folder / f'{k:03d}.png'), image[..., ::-1])
    text = {
        'camera': 'wrist' if link else 'front',
        'link': link,
        'board_link': None if link else 'panda_hand',
        'board': dataclasses.asdict(scene.BOARD),
        'intrinsics': dataclasses.asdict(scene.LENS),
        'samples': [
            {'image': f'{k:03d}.png', 'joints': dict(joint)} for k, joint in enumerate(joints)
        ],
        **changes,
    }
    (folder / FILE).write_text(json.dumps(text))
    return folder


def panda_samples(contract, in_hand, count=10):
    """Joints at which the board is seen, with the pictures, and the truth."""
    mount = mounting(contract, 'wrist' if in_hand else 'front', '' if in_hand else None)
    rng = np.random.default_rng(0)
    home = np.array(contract.home_positions)
    truth = scene.IN_HAND if in_hand else None
    first = mount.pose(home)
    width, height = scene.BOARD.size
    centred = transform(translation=(-width / 2, -height / 2, 0))
    C0 = transform(matrix_from_rotation_vector((0.1, 0.2, 0.3)), (0, 0, 0.5)) @ centred
    if in_hand:
        Z = first @ truth @ C0
    else:
        Z = centred @ transform(translation=(0, 0, 0.05))
        truth = first @ Z @ inverse(C0)
    joints, images = [], []
    while len(joints) < count:
        q = home + np.append(rng.uniform(-0.25, 0.25, 7), 0.0)
        pose = mount.pose(q)
        C = inverse(truth) @ (inverse(pose) if in_hand else pose) @ Z
        if not in_hand:
            C = inverse(truth) @ pose @ Z
        else:
            C = inverse(pose @ truth) @ Z
        image = scene.render(C)
        if scene.BOARD.detect(image).count < 24:
            continue
        joints.append(dict(zip(contract.joint_names, q.tolist(), strict=True)))
        images.append(image)
    return truth, joints, images


@pytest.fixture
def panda(tmp_path):
    """A copy of the Panda's contract that may be written to."""
    folder = Path(load_contract(PANDA).folder)
    shutil.copytree(folder.parent / 'urdf', tmp_path / 'urdf')
    (tmp_path / 'embodiments').mkdir()
    path = tmp_path / 'embodiments' / 'panda.yaml'
    shutil.copy(folder / 'panda.yaml', path)
    return path


@pytest.mark.parametrize('in_hand', [True, False], ids=['wrist', 'front'])
def test_a_folder_of_pictures_and_joints_gives_the_mount(panda, tmp_path, in_hand):
    contract = load_contract(panda)
    truth, joints, images = panda_samples(contract, in_hand)
    folder = write_folder(
        tmp_path / 'samples', 'panda_hand' if in_hand else None, joints, images, board_link=None
    )
    samples = read_samples(folder, contract)
    assert samples.size == scene.SIZE
    assert samples.mounting.in_hand == in_hand
    if in_hand:  # its calibration so far says which link it is on
        assert mounting(contract, 'wrist').link == 'panda_hand'
    assert samples.mounting.moving == ('panda_hand' if in_hand else 'panda_hand_tcp')
    result = solve(samples.views, samples.intrinsics, samples.size, in_hand=in_hand)
    mm, degrees = error(result.mount, truth)
    assert mm < 0.5
    assert degrees < 0.05


def test_folders_that_cannot_be_used_are_refused_by_name(panda, tmp_path):
    contract = load_contract(panda)
    image = scene.render(transform(translation=(-0.12, -0.09, 0.5)))
    home = dict(zip(contract.joint_names, contract.home_positions.tolist(), strict=True))
    with pytest.raises(CalibrationError, match=r'nowhere/samples\.json cannot be read: No such'):
        read_samples(tmp_path / 'nowhere', contract)
    made = iter(range(100))

    def folder(joints=home, images=(image,), link=None, **changes):
        return write_folder(tmp_path / f's{next(made)}', link, [joints], images, **changes)

    lacking = {k: v for k, v in home.items() if k != 'panda_joint3'}
    few = {k: v for k, v in home.items() if k != 'panda_finger_joint1'}
    read_samples(folder(few), contract)  # fingers carry nothing
    for wrong, message in (
        (folder(lacking), r'000\.png lacks joint panda_joint3'),
        (folder({**home, 'elbow': 0.0}), r"has joint 'elbow'; the contract has panda_joint1"),
        (folder({**home, 'panda_joint1': float('nan')}), 'panda_joint1: is nan; a finite number'),
        (folder(images=()), r'000\.png: there is no such picture'),
        (folder(camera='back'), "unknown camera 'back'"),
        (folder(board_link='panda_link99'), "no link 'panda_link99'"),
        (folder(board_link='panda_link0'), "'panda_link0', which carries the board, does not"),
        (folder(samples=[]), 'names no picture'),
        (folder(samples=[{'image': '000.png'}]), 'has neither joints nor a pose'),
        (folder(samples=[{'image': '000.png', 'pose': {'position': [0, 0, 0], 'orientation': [
            0, 0, 0, 0]}}]), 'is no rotation'),
        (folder(board={'columns': 1}), '3 x 3 is the least'),
        (folder(colour='red'), 'colour: unknown key'),
    ):
        with pytest.raises(CalibrationError, match=message):
            read_samples(wrong, contract)
    broken = folder()
    (broken / '000.png').write_bytes(b'no picture')
    with pytest.raises(CalibrationError, match=r'000\.png is no picture that OpenCV reads'):
        read_samples(broken, contract)
    with pytest.raises(CalibrationError, match='has no `kinematics`'):
        mounting(load_contract('pusht', {'kinematics': None}), 'top')


def test_pictures_are_taken_where_the_arm_rests_at_new_poses(panda, tmp_path):
    contract = load_contract(panda)
    _, joints, images = panda_samples(contract, True, count=3)
    mount = mounting(contract, 'wrist', 'panda_hand_tcp')
    collector = Collector(tmp_path / 'run', 'wrist', scene.BOARD, mount, scene.LENS)
    states, stamp = StateHistory(), 10**12

    def rest(q, seconds=1.0, drift=0.0):
        nonlocal stamp
        for k in range(round(seconds * 100)):
            stamp += 10_000_000
            states.add(stamp, np.array(q) + drift * k)

    assert collector.offer(images[0], stamp, states) == (
        False, 'waits for joint_states: no joint state is known yet'
    )
    q = [list(joint.values()) for joint in joints]
    rest(q[0], drift=1e-3)
    assert collector.offer(images[0], stamp, states) == (False, 'the arm moves')
    rest(q[0])
    blank = np.zeros_like(images[0])
    assert collector.offer(blank, stamp, states)[1] == 'the board is not seen (0 corners)'
    assert collector.offer(images[0], stamp, states) == (True, '24 corners')
    assert collector.offer(images[0], stamp, states)[1] == 'move the arm: tilt it and shift it'
    rest(q[1])
    assert collector.offer(images[1], stamp, states)[0]
    assert collector.count == 2
    again = read_samples(tmp_path / 'run', contract)
    assert [view.name for view in again.views] == ['000.png', '001.png']
    assert again.intrinsics == scene.LENS
    assert again.views[1].pose == pytest.approx(mount.pose(np.array(q[1])))
    with pytest.raises(CalibrationError, match='holds samples already'):
        Collector(tmp_path / 'run', 'wrist', scene.BOARD, mount, None)


FRONT = Calibration(
    'front', (610.5, 611.25), (47.5, 48.0), (1.1, -0.2, 0.45),
    tuple(quaternion_from_matrix(scene.FIXED[:3, :3]).tolist()),
)


def test_a_calibration_is_put_into_the_contract_and_nothing_else_changes(panda):
    before = panda.read_text()
    write_calibration(panda, FRONT)
    after = panda.read_text()
    contract = load_contract(panda)
    found = {c.name: c for c in contract.calibration}
    assert found['front'].focal == FRONT.focal
    assert found['front'].position == FRONT.position
    assert found['front'].orientation == pytest.approx(FRONT.orientation, abs=1e-8)
    assert [c.name for c in contract.calibration] == ['front', 'side', 'wrist']
    # Line by line: only the block of this camera differs.
    old, new = before.splitlines(), after.splitlines()
    changed = [line for line in new if line not in old]
    assert len(changed) <= 5
    assert set(old) - set(new) <= set(old[old.index('calibration:') + 1 :][:5])
    wrist = dataclasses.replace(FRONT, name='wrist', link='panda_hand')
    write_calibration(panda, wrist)
    assert load_contract(panda).calibration[2].link == 'panda_hand'
    assert not list(panda.parent.glob('.*'))


CUT = """\
embodiment: arm  # mine
calibration:
- name: left
  focal: [1.0, 1.0]
# about the right one
- name: right
  focal: [2.0, 2.0]

# the rest
sim: {environment: arm}
"""


def test_the_text_of_a_contract_keeps_its_shape():
    left = with_calibration(CUT, dataclasses.replace(FRONT, name='left'))
    assert left == CUT.replace(
        '- name: left\n  focal: [1.0, 1.0]\n', block(dataclasses.replace(FRONT, name='left'))
    )
    right = with_calibration(CUT, dataclasses.replace(FRONT, name='right'))
    assert right == CUT.replace(
        '- name: right\n  focal: [2.0, 2.0]\n', block(dataclasses.replace(FRONT, name='right'))
    )
    added = with_calibration(CUT, FRONT)
    assert added == CUT.replace(
        '  focal: [2.0, 2.0]\n', '  focal: [2.0, 2.0]\n' + block(FRONT)
    )
    none = with_calibration('a: 1', FRONT)
    assert none == 'a: 1\n\ncalibration:\n' + ''.join(
        f'  {line}\n' for line in block(FRONT).splitlines()
    )
    with pytest.raises(CalibrationError, match='line 1: `calibration` is no list'):
        with_calibration('calibration: []', FRONT)


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(CalibrationError, match='cannot be written: No such file'):
        write_calibration(tmp_path / 'none.yaml', FRONT)
    broken = tmp_path / 'broken.yaml'
    broken.write_text('embodiment: arm\n')
    with pytest.raises(CalibrationError, match='would be no contract any more'):
        write_calibration(broken, FRONT)
    assert broken.read_text() == 'embodiment: arm\n'


def test_intrinsics_follow_the_cut_and_the_scaling():
    lens = Intrinsics((600.0, 600.0), (319.5, 239.5)).fitted((640, 480), 96, 96)
    assert lens.focal == pytest.approx((120.0, 120.0))
    assert lens.centre == pytest.approx((47.5, 47.5))
    assert scene.LENS.fitted(scene.SIZE, *scene.SIZE) == scene.LENS
