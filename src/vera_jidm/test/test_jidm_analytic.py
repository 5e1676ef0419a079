"""The analytic Jacobian and its translator: finite differences, actions from known motion."""

import numpy as np
import pytest
from jidm_robots import (
    ARM_JOINTS,
    READY,
    arm_contract,
    arm_urdf,
    contract_of,
    front_camera,
    hand_urdf,
    joint,
    quaternion,
    visual,
)

from vera_core.contract import build_contract
from vera_core.kinematics.description import find_urdf
from vera_core.kinematics.render import optical_frame
from vera_core.kinematics.transforms import apply, inverse, rotation_from_rpy
from vera_core.kinematics.urdf import UrdfError
from vera_core.seams import JacobianModel, Translator
from vera_jidm.analytic import AnalyticJacobian, CalibrationError, on_grid
from vera_jidm.analytic_translator import AnalyticTranslator
from vera_jidm.flow import FlowPair
from vera_jidm.registry import make_translator
from vera_jidm.translator import TranslationError


def pixels_after(model, rows, q0, q1):
    """Where the points that the rows show at q0 are seen at q1, float64 [P, 2] on the canvas."""
    before, after = model.posture(q0), model.posture(q1)
    out = np.zeros((len(rows.v), 2))
    for view in model.views:
        box, camera = view.box, view.camera
        here = (rows.u >= box.x0) & (rows.u < box.x1)
        surface = model._painter.paint(before, camera)
        points = apply(optical_frame(model.tree, before, camera), surface.points(camera))
        local = [
            apply(inverse(before.links[i]), p[None])[0]
            for i, p in zip(rows.link[here], points, strict=True)
        ]
        moved = np.array(
            [apply(after.links[i], p[None])[0] for i, p in zip(rows.link[here], local, strict=True)]
        )
        seen = apply(inverse(optical_frame(model.tree, after, camera)), moved)
        out[here] = camera.project(seen) + np.array([box.x0, box.y0])
    return out


def check_slopes(model, q, h=1e-5):
    """J against central differences of where each pixel's own point goes."""
    rows = model.rows(model.posture(q))
    assert len(rows.v) > 300
    scale = np.abs(rows.J).max()
    for j in range(len(q)):
        step = h * np.eye(len(q))[j]
        forward = pixels_after(model, rows, q, q + step)
        slope = (forward - pixels_after(model, rows, q, q - step)) / (2 * h)
        assert np.abs(rows.J[..., j] - slope).max() <= 1e-6 * scale


def test_the_arm_in_three_dimensions_agrees_with_finite_differences():
    model = AnalyticJacobian.from_contract(arm_contract())
    rng = np.random.default_rng(0)
    for _ in range(2):
        check_slopes(model, READY + rng.uniform(-0.4, 0.4, 7))


def test_two_views_one_of_them_a_crop_and_one_on_the_moving_hand():
    cameras = [
        {'name': 'front', 'topic': 'front/image', 'width': 256, 'height': 192, 'rate': 10,
         'crop': {'x': 32, 'y': 0, 'width': 192, 'height': 192}},
        {'name': 'wrist', 'topic': 'wrist/image', 'width': 64, 'height': 64, 'rate': 10},
    ]  # fmt: skip
    back = rotation_from_rpy([np.pi * 0.9, 0, 0.3])
    wrist = {
        'name': 'wrist', 'link': 'hand', 'focal': [60.0, 60.0], 'centre': [31.5, 31.5],
        'position': [0.0, 0.05, 0.5], 'orientation': quaternion(back),
    }  # fmt: skip
    contract = arm_contract(
        calibration=[front_camera(), wrist], cameras=cameras, canvas=(64, 144)
    )
    model = AnalyticJacobian.from_contract(contract)
    rows = model.rows(model.posture(READY))
    assert {'front', 'wrist'} == {v.box.name for v in model.views}
    on_wrist = rows.u >= 64
    assert on_wrist.sum() > 100 and (~on_wrist).sum() > 100 and rows.u.max() < 128
    # The hand does not move in the picture of a camera that it carries.
    hand = on_wrist & (rows.link == model.tree.link_index('hand'))
    assert hand.sum() > 20
    assert np.abs(rows.J[hand]).max() < 1e-9
    check_slopes(model, READY)


def test_the_hand_of_sixteen_joints_agrees_with_finite_differences():
    joints = [f'joint_{f}_{k}' for f in range(4) for k in range(4)]
    above = {
        'name': 'front', 'focal': [400.0, 400.0], 'centre': [127.5, 95.5],
        'position': [0.12, 0.0, 0.5], 'orientation': quaternion(rotation_from_rpy([2.9, 0, 0])),
    }  # fmt: skip
    model = AnalyticJacobian.from_contract(contract_of(hand_urdf(), joints, [above]))
    check_slopes(model, np.tile([0.1, 0.4, 0.3, 0.2], 4))


def test_the_seam_wants_states_and_background_is_zero():
    model = AnalyticJacobian.from_contract(arm_contract())
    assert isinstance(model, JacobianModel)
    images = np.zeros((2, 96, 128, 3), np.uint8)
    with pytest.raises(CalibrationError, match='2 images need the joint positions of each; there'):
        model(images)
    J = model(images, np.stack([READY, READY + 0.1]))
    assert J.shape == (2, 96, 128, 2, 7)
    assert J.dtype == np.float32
    links = model.links(READY)
    assert (J[0][links < 0] == 0).all()
    assert (np.abs(J[0][links == model.tree.link_index('hand')]).max(axis=(0, 1)) > 0).all()
    np.testing.assert_array_equal(J[1], model.jacobian(READY + 0.1)[0])


def test_it_teaches_in_batches_on_the_grid_of_a_network():
    model = AnalyticJacobian.from_contract(arm_contract())
    images = np.zeros((5, 96, 128, 3), np.uint8)
    states = READY + np.linspace(-0.2, 0.2, 5)[:, None]
    pairs = list(model.labels(images, states, batch=2))
    assert [len(i) for i, _ in pairs] == [2, 2, 1]
    J = np.concatenate([j for _, j in pairs])
    np.testing.assert_array_equal(J[3], model.jacobian(states[3])[0])
    grid = on_grid(J, 4)
    assert grid.shape == (5, 7, 2, 24, 32)
    np.testing.assert_allclose(grid[1, 6, 0, 10, 12], J[1, 40:44, 48:52, 0, 6].mean(), rtol=1e-5)
    with pytest.raises(ValueError, match='no multiple of cells of 5 px'):
        on_grid(J, 5)


def test_measured_depth_stands_in_for_the_drawn_one():
    model = AnalyticJacobian.from_contract(arm_contract())
    posture = model.posture(READY)
    camera = model.views[0].camera
    surface = model._painter.paint(posture, camera)
    depth = np.where(surface.link >= 0, surface.depth, 3.0)
    measured = model.rows(posture, {'front': depth})
    drawn = model.rows(posture)
    np.testing.assert_array_equal(measured.v, drawn.v)
    same = measured.link == drawn.link
    assert same.mean() > 0.95  # links overlap at the joints
    np.testing.assert_allclose(measured.J[same], drawn.J[same], atol=1e-6)
    with pytest.raises(CalibrationError, match='its view on the canvas is'):
        model.rows(posture, {'front': depth[1:]})


def channel(name, kind, unit, joint_name=None, scale=0.05):
    return {'name': name, 'kind': kind, 'unit': unit, 'joint': joint_name, 'scale': scale}


def test_cartesian_channels_move_the_tool_as_they_say():
    """All six commanded or only three: what is not commanded of seven joints' tool stays put."""
    axes = {'dx': 'x', 'dy': 'y', 'dz': 'z', 'rz': 'rz'}
    channels = [channel(c, 'cartesian_delta', 'rad' if c[0] == 'r' else 'm') for c in axes]
    contract = arm_contract(channels=channels, tool='hand', axes=axes)
    model = AnalyticJacobian.from_contract(contract)
    posture = model.posture(READY)
    C = model.channels.columns(posture)
    motion = model.tree.frame_jacobian(posture, 'hand') @ C
    expected = np.zeros((6, 4))
    expected[[0, 1, 2, 5], [0, 1, 2, 3]] = 1
    np.testing.assert_allclose(motion, expected, atol=1e-3)
    before = posture.links[model.tree.link_index('hand'), :3, 3]
    q = model.channels.move(READY, C, np.array([0.001, 0, -0.002, 0]))
    after = model.posture(q).links[model.tree.link_index('hand'), :3, 3]
    np.testing.assert_allclose(after - before, [0.001, 0, -0.002], atol=2e-5)
    # A stretched arm cannot move further out: joints stay slow instead of running away.
    stretched = model.channels.columns(model.posture(np.zeros(7)))
    assert np.abs(stretched).max() < 1e3


def test_a_short_arm_leaves_the_rest_of_the_tools_motion_free():
    text = (
        '<robot name="two"><link name="a"/>' + joint('p', 'a', 'b')
        + '<link name="b">' + visual('<box size="1 0.1 0.1"/>', '0.5 0 0') + '</link>'
        + joint('q', 'b', 'c', xyz='1 0 0') + '<link name="c">'
        + visual('<box size="1 0.1 0.1"/>', '0.5 0 0') + '</link>'
        + joint('t', 'c', 'tip', 'fixed', xyz='1 0 0') + '<link name="tip"/></robot>'
    )  # fmt: skip
    axes = {'dx': 'x', 'dy': 'y'}
    channels = [channel(c, 'cartesian_delta', 'm') for c in axes]
    contract = contract_of(
        text, ['p', 'q'], [front_camera((1, 0, 5), (1, 0.01, 0))], channels=channels, tool='tip',
        axes=axes,
    )  # fmt: skip
    model = AnalyticJacobian.from_contract(contract)
    posture = model.posture(np.array([0.3, 1.0]))
    motion = model.tree.frame_jacobian(posture, 'tip') @ model.channels.columns(posture)
    np.testing.assert_allclose(motion[:2], np.eye(2), atol=1e-4)


def gripper_contract(unit):
    data = arm_contract().to_dict()
    data['joints'].append(
        {'name': 'left', 'position': [0.0, 0.04], 'velocity': 0.1, 'acceleration': 1.0}
    )
    data['home']['left'] = 0.0
    data['channels'][0]['kind'] = 'joint_target'
    data['channels'].append(channel('grip', 'gripper', unit, 'left'))
    return build_contract(data)


@pytest.mark.parametrize('unit', ['ratio', 'm'])
def test_targets_and_grippers_are_where_the_joint_goes(unit):
    model = AnalyticJacobian.from_contract(gripper_contract(unit))
    q = np.array([*READY, 0.01])
    change = np.array([0.02, 0.03, 0, 0, 0, 0, 0, 0.5 if unit == 'ratio' else 0.02])
    values = model.channels.values(q, change)
    np.testing.assert_allclose(values[:2], [READY[0] + 0.02, 0.03])
    np.testing.assert_allclose(values[7], 0.75 if unit == 'ratio' else 0.03)
    after = model.channels.move(q, model.channels.columns(model.posture(q)), change)
    np.testing.assert_allclose(after[7], 0.03)
    J = model.jacobian(q)[0]
    per_metre = {'ratio': 0.04, 'm': 1.0}[unit]
    fingers = model.links(q) == model.tree.link_index('left_finger')
    assert fingers.sum() > 3
    reference = AnalyticJacobian.from_contract(gripper_contract('m')).jacobian(q)[0]
    expected = per_metre * reference[fingers][..., 7]
    np.testing.assert_allclose(J[fingers][..., 7], expected, rtol=1e-5)


class KnownMotion:
    """An estimator that knows the postures; its flow is exact at the robot's pixels."""

    flow_id = 'known'

    def __init__(self, model, path, noise=0.0):
        self.model, self.path, self.noise = model, path, noise

    def both(self, a, b):
        rng = np.random.default_rng(0)
        fields = []
        for start, end in ((0, 1), (1, 0)):
            flow = rng.normal(0, self.noise, (len(a), 96, 128, 2)) if self.noise else np.zeros(
                (len(a), 96, 128, 2)
            )
            for k in range(len(a)):
                q0, q1 = self.path[k + start], self.path[k + end]
                rows = self.model.rows(self.model.posture(q0))
                if not len(rows.v):
                    continue
                moved = pixels_after(self.model, rows, q0, q1)
                flow[k, rows.v, rows.u] += moved - np.stack([rows.u, rows.v], -1)
            fields.append(flow.astype(np.float32))
        ones = np.ones(fields[0].shape[:3], np.float32)
        return FlowPair(fields[0], fields[1], ones, ones)


def images(count=1):
    return np.zeros((count, 96, 128, 3), np.uint8)


def walk(q, steps, seed=3, size=0.04):
    deltas = np.random.default_rng(seed).uniform(-size, size, (steps, len(q)))
    return deltas, q + np.concatenate([np.zeros((1, len(q))), np.cumsum(deltas, 0)])


@pytest.mark.parametrize(('mode', 'tolerance'), [('paper', 0.3), ('stacked', 0.04)])
def test_a_chunk_of_the_arm_comes_back_from_its_motion(mode, tolerance):
    """Error relative to the actions; stacking both frames cancels the curvature."""
    contract = arm_contract()
    model = AnalyticJacobian.from_contract(contract)
    deltas, path = walk(READY, 3)
    translator = AnalyticTranslator(
        model, contract.channel_names, KnownMotion(model, path), mode=mode, border=()
    )
    assert isinstance(translator, Translator)
    translation, explanation = translator.explain(images()[0], images(3), READY)
    error = np.sqrt(np.square(translation.values - deltas).mean() / np.square(deltas).mean())
    assert error < tolerance
    assert (translation.residual < 0.1).all()
    assert explanation.problems == ('', '', '')
    assert explanation.jacobian.shape == (96, 128, 2, 7)
    assert (translation.observability > 0).all() and translation.observability.max() == 1


def test_pixels_and_units_of_cartesian_and_target_channels_fit_together():
    """The same motion, asked for as joint targets, comes back as targets."""
    data = arm_contract().to_dict()
    for item in data['channels']:
        item['kind'] = 'joint_target'
    contract = build_contract(data)
    model = AnalyticJacobian.from_contract(contract)
    _, path = walk(READY, 2)
    flow = KnownMotion(model, path)
    translator = AnalyticTranslator(model, contract.channel_names, flow, border=())
    values = translator.translate(images()[0], images(2), READY).values
    np.testing.assert_allclose(values, path[1:], atol=2e-3)


def test_still_frames_give_no_action():
    contract = arm_contract()
    model = AnalyticJacobian.from_contract(contract)
    flow = KnownMotion(model, np.stack([READY] * 3), noise=0.01)
    translation, explanation = AnalyticTranslator(
        model, contract.channel_names, flow
    ).explain(images()[0], images(2), READY)
    assert np.abs(translation.values).max() < 5e-3
    assert explanation.still.all()


def test_a_robot_out_of_the_picture_gets_no_action_and_a_word():
    contract = arm_contract(calibration=[front_camera(target=(3.0, 1.4, 0.9))])
    model = AnalyticJacobian.from_contract(contract)
    flow = KnownMotion(model, np.stack([READY] * 2), noise=1.0)
    translation, explanation = AnalyticTranslator(
        model, contract.channel_names, flow
    ).explain(images()[0], images(1), READY)
    assert (translation.values == 0).all()
    assert 'the robot is not seen' in explanation.problems[0]


@pytest.mark.parametrize('bad', ['huge', 'nan'])
def test_no_flow_makes_an_action_beyond_the_velocity_limits(bad):
    contract = arm_contract()
    model = AnalyticJacobian.from_contract(contract)
    flow = KnownMotion(model, walk(READY, 1)[1])

    class Broken:
        flow_id = 'broken'

        def both(self, a, b):
            pair = flow.both(a, b)
            if bad == 'huge':
                return FlowPair(pair.forward * 1e3, pair.backward * 1e3, *pair_weights(pair))
            pair.forward[:], pair.backward[:] = np.nan, np.nan
            return pair

    translation, explanation = AnalyticTranslator(
        model, contract.channel_names, Broken()
    ).explain(images()[0], images(1), READY)
    # 1 rad/s over a frame period of 0.1 s.
    assert np.abs(translation.values).max() <= 0.1 + 1e-9
    assert explanation.problems[0]


def pair_weights(pair):
    return pair.weight_forward, pair.weight_backward


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'state': None}, 'needs the joint positions when the anchor was taken'),
        ({'state': np.zeros(6)}, '7 finite numbers are needed: joint_1'),
        ({'state': np.full(7, np.inf)}, 'finite numbers'),
        ({'anchor': np.zeros((64, 64, 3), np.uint8)}, r'works on uint8 \[96, 128, 3\]'),
        ({'frames': np.zeros((2, 96, 128, 3), np.float32)}, 'the frames are float32'),
        ({'frames': np.zeros((0, 96, 128, 3), np.uint8)}, 'a plan without frames'),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_bad_input_is_refused(change, words):
    contract = arm_contract()
    model = AnalyticJacobian.from_contract(contract)
    translator = AnalyticTranslator(model, contract.channel_names, KnownMotion(model, None))
    given = {'anchor': images()[0], 'frames': images(2), 'state': READY, **change}
    with pytest.raises(TranslationError, match=words):
        translator.translate(**given)
    with pytest.raises(TranslationError, match="no mode 'servo'"):
        AnalyticTranslator(model, contract.channel_names, KnownMotion(model, None), mode='servo')


@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        ({'kinematics': None}, CalibrationError, "contract of 'robot' has no `kinematics`"),
        ({'calibration': []}, CalibrationError, "camera 'front' has no calibration; add focal"),
        ({'kinematics': {'urdf': 'nowhere.urdf'}}, UrdfError, "no file 'nowhere.urdf'"),
        ({'kinematics': {'urdf': '<robot'}}, UrdfError, 'broken XML'),
        ({'kinematics': {'urdf': '<robot><link name="a"/></robot>'}}, UrdfError,
         "joints of 'robot' and of its URDF do not fit: no joint 'joint_1' in the URDF"),
        ({'kinematics': {'urdf': arm_urdf(), 'tool': 'hnad'}}, UrdfError,
         "no link 'hnad' in the URDF; did you mean 'hand'"),
        ({'calibration': [{**front_camera(), 'link': 'wall'}]}, UrdfError, "no link 'wall'"),
        ({'channels': [channel('dx', 'cartesian_delta', 'm')]}, CalibrationError,
         "'dx' is Cartesian and kinematics.tool does not say"),
        ({'channels': [channel('grip', 'gripper', 'ratio')]}, CalibrationError,
         "channel 'grip' names no joint"),
    ],
    ids=lambda v: '-'.join(v) if isinstance(v, dict) else None,
)  # fmt: skip
def test_what_the_contract_does_not_tell_is_named(change, error, words):
    contract = build_contract({**arm_contract().to_dict(), **change})
    with pytest.raises(error, match=words) as caught:
        make_translator('analytic', contract)
    assert '\n' not in str(caught.value)


def test_a_robot_without_shapes_is_refused():
    text = (
        '<robot name="r"><link name="a"/>' + joint('joint_1', 'a', 'b') + '<link name="b"/></robot>'
    )
    with pytest.raises(UrdfError, match='nothing to see of the robot'):
        AnalyticJacobian.from_contract(contract_of(text, ['joint_1'], [front_camera()]))


def test_the_registry_makes_it_without_a_checkpoint():
    contract = arm_contract()
    translator = make_translator('analytic', contract)
    assert translator.needs_state
    assert translator.translator_id == 'analytic'
    assert len(translator.checkpoint_hash) == 12
    moved = arm_contract(calibration=[front_camera(eye=(1.5, 0.7, 0.8))])
    assert make_translator('analytic', moved).checkpoint_hash != translator.checkpoint_hash
    with pytest.raises(ValueError, match='takes no checkpoint'):
        make_translator('analytic', contract, 'jidm_finger3')


def test_relative_paths_start_at_the_contracts_file(tmp_path):
    (tmp_path / 'arm.urdf').write_text(arm_urdf())
    contract = build_contract({**arm_contract().to_dict(), 'kinematics': {'urdf': 'arm.urdf'}})
    object.__setattr__(contract, 'folder', tmp_path)
    assert find_urdf(contract) == tmp_path / 'arm.urdf'
    assert AnalyticJacobian.from_contract(contract).tree.joint_names == tuple(ARM_JOINTS)
