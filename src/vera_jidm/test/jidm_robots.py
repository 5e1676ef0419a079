"""Robots for tests, written as URDF text, and contracts that see them."""

import math

import numpy as np

from vera_core.contract import build_contract

# Modified Denavit-Hartenberg parameters of the Franka Panda as its maker publishes them:
# a_{i-1} [m], d_i [m], alpha_{i-1} [rad].
PANDA = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
)
READY = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])


def visual(shape, xyz='0 0 0', rpy='0 0 0'):
    return f'<visual><origin xyz="{xyz}" rpy="{rpy}"/><geometry>{shape}</geometry></visual>'


def joint(name, parent, child, kind='revolute', xyz='0 0 0', rpy='0 0 0', axis='0 0 1', more=''):
    return (
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="{xyz}" rpy="{rpy}"/><axis xyz="{axis}"/>'
        f'<limit lower="-2.9" upper="2.9" effort="1" velocity="2"/>{more}</joint>'
    )


def arm_urdf():
    """Seven joints with the Panda's kinematics, links of our own, a flange and two fingers."""
    parts = ['<robot name="arm"><link name="base">',
             visual('<box size="0.2 0.2 0.1"/>', '0 0 0.05'), '</link>']
    parent = 'base'
    for i, (a, d, alpha) in enumerate(PANDA, 1):
        xyz = f'{a!r} {-math.sin(alpha) * d!r} {math.cos(alpha) * d!r}'
        parts.append(joint(f'joint_{i}', parent, f'link_{i}', xyz=xyz, rpy=f'{alpha!r} 0 0'))
        parts.append(f'<link name="link_{i}">')
        parts.append(visual('<cylinder radius="0.06" length="0.18"/>'))
        if i in (3, 5):
            parts.append(visual('<cylinder radius="0.05" length="0.22"/>', '0 0 -0.18'))
        if i == 4:
            parts.append(visual('<box size="0.1 0.09 0.11"/>', '-0.05 0 0'))
        parts.append('</link>')
        parent = f'link_{i}'
    parts.append(joint('flange', parent, 'hand', 'fixed', '0 0 0.107'))
    parts += ['<link name="hand">', visual('<box size="0.2 0.06 0.05"/>', '0 0 0.02'), '</link>']
    for side, sign in (('left', 1), ('right', -1)):
        mimic = '' if side == 'left' else '<mimic joint="left" multiplier="1" offset="0"/>'
        parts.append(
            joint(side, 'hand', f'{side}_finger', 'prismatic', '0 0 0.05', axis=f'{sign} 0 0',
                  more=mimic).replace('lower="-2.9" upper="2.9"', 'lower="0" upper="0.04"')
        )
        parts += [f'<link name="{side}_finger">',
                  visual('<box size="0.02 0.02 0.08"/>', f'{0.01 * sign} 0 0.04'), '</link>']
    parts.append('</robot>')
    return ''.join(parts)


def hand_urdf():
    """Four fingers of four joints each on a palm, seen from above."""
    parts = ['<robot name="many"><link name="palm">', visual('<box size="0.1 0.12 0.02"/>'),
             '</link>']
    for f in range(4):
        parent = 'palm'
        for k in range(4):
            name = f'{f}_{k}'
            xyz = f'0.05 {0.04 * f - 0.06!r} 0' if k == 0 else '0.04 0 0.002'
            # The first joint spreads the finger; the others curl it.
            axis = '0 0 1' if k == 0 else '0 1 0'
            parts.append(joint(f'joint_{name}', parent, f'link_{name}', xyz=xyz, axis=axis))
            parts += [f'<link name="link_{name}">',
                      visual('<box size="0.04 0.018 0.018"/>', '0.02 0 0'),
                      visual('<sphere radius="0.009"/>', '0.04 0 0'), '</link>']
            parent = f'link_{name}'
    parts.append('</robot>')
    return ''.join(parts)


def looking_at(eye, target, up=(0.0, 0.0, 1.0)):
    """Rotation [3, 3] of an optical frame (x right, y down, z forward)."""
    z = np.asarray(target, float) - eye
    z /= np.linalg.norm(z)
    x = np.cross(z, up)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


def quaternion(R):
    """(x, y, z, w) of a rotation matrix."""
    w, v = np.linalg.eig(R)
    axis = np.real(v[:, np.argmin(np.abs(w - 1))])
    skew = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    angle = np.arctan2(skew @ axis / 2, (np.trace(R) - 1) / 2)
    return [*(np.sin(angle / 2) * axis).tolist(), float(np.cos(angle / 2))]


def contract_of(
    urdf, joints, calibration, canvas=(96, 128), channels=None, cameras=None, **kinematics
):
    """A contract of a robot with these joints, one delta channel each unless told."""
    height, width = canvas
    return build_contract(
        {
            'embodiment': 'robot',
            'channels': channels
            or [{'name': j, 'joint': j, 'kind': 'joint_delta', 'unit': 'rad'} for j in joints],
            'joints': [
                {'name': j, 'position': [-2.9, 2.9], 'velocity': 1.0, 'acceleration': 9.0}
                for j in joints
            ],
            'home': dict.fromkeys(joints, 0.0),
            'control': {'rate': 100, 'state_timeout': 0.5},
            'video': {'frame_period': 0.1, 'context': 1, 'look_ahead': 4, 'committed': 4,
                      'frame_timeout': 1.0},
            'canvas': {'height': height, 'width': width},
            'cameras': cameras
            or [{'name': 'front', 'topic': 'front/image', 'width': 4 * width // 2,
                 'height': 4 * height // 2, 'rate': 10}],
            'goal': {'timeout': 10.0},
            'defaults': {'planner': 'compact', 'translator': 'analytic', 'robot': 'topic'},
            'kinematics': {'urdf': urdf, **kinematics},
            'calibration': calibration,
        }
    )


def front_camera(eye=(1.5, 0.7, 0.9), target=(0.3, 0.0, 0.45), focal=260.0, size=(256, 192)):
    """Calibration of a pinhole that looks at the arm."""
    return {
        'name': 'front',
        'focal': [focal, focal],
        'centre': [(size[0] - 1) / 2, (size[1] - 1) / 2],
        'position': list(eye),
        'orientation': quaternion(looking_at(np.array(eye), np.array(target))),
    }


ARM_JOINTS = [f'joint_{i}' for i in range(1, 8)]


def arm_contract(**changes):
    """The seven-joint arm in front of a pinhole, canvas 128 x 96."""
    changes.setdefault('calibration', [front_camera()])
    return contract_of(arm_urdf(), ARM_JOINTS, **changes)
