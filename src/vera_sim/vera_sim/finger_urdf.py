"""The finger as a URDF: what its camera shows, as solid links seen from above.

One pixel of the 64 x 64 canvas is a centimetre. The base lies at the origin, x points up the image,
y to its left and z at the camera; links lie in layers, the distal ones on top, as they are painted.
"""

from __future__ import annotations

from vera_sim.finger_kinematics import REACH, joint_limits
from vera_sim.finger_painter import LINK_WIDTH

METRES_PER_PIXEL = 0.01
# Height of a layer and of the link in it [m].
LAYER, THICK = 0.02, 0.01


def finger_urdf(joints: int) -> str:
    """URDF text of a finger with that many joints."""
    length = REACH / joints * METRES_PER_PIXEL
    width = LINK_WIDTH * METRES_PER_PIXEL
    _, high = joint_limits(joints)
    lines = [
        '<?xml version="1.0"?>',
        '<!-- Made by vera_sim.finger_urdf; metres. The tip is where the last link ends. -->',
        f'<robot name="finger_{joints}">',
        '  <link name="base_link"/>',
    ]
    for k in range(joints):
        at = length if k else 0.0
        lines += [
            f'  <joint name="joint_{k + 1}" type="revolute">',
            f'    <parent link="{f"link_{k}" if k else "base_link"}"/>',
            f'    <child link="link_{k + 1}"/>',
            f'    <origin xyz="{at:.6g} 0 {LAYER if k else 0:g}"/>',
            '    <axis xyz="0 0 1"/>',
            f'    <limit lower="{-high[k]:.6g}" upper="{high[k]:.6g}" effort="1" velocity="2"/>',
            '  </joint>',
            f'  <link name="link_{k + 1}">',
            *_visual(f'<box size="{length:.6g} {width:g} {THICK:g}"/>', length / 2),
            *_visual(f'<cylinder radius="{width / 2:g}" length="{THICK:g}"/>', 0.0),
            *_visual(f'<cylinder radius="{width / 2:g}" length="{THICK:g}"/>', length),
            '  </link>',
        ]
    lines += [
        '  <joint name="tip_joint" type="fixed">',
        f'    <parent link="link_{joints}"/>',
        '    <child link="tip"/>',
        f'    <origin xyz="{length:.6g} 0 0"/>',
        '  </joint>',
        '  <link name="tip"/>',
        '</robot>',
    ]
    return '\n'.join(lines) + '\n'


def _visual(shape: str, x: float) -> list[str]:
    return [
        '    <visual>',
        f'      <origin xyz="{x:.6g} 0 0"/>',
        f'      <geometry>{shape}</geometry>',
        '    </visual>',
    ]
