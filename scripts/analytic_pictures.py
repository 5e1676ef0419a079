"""What the analytic translator believes to see: links by colour, and each channel's Jacobian.

.venv/bin/python scripts/analytic_pictures.py docs/how-to/example/arm.yaml analytic.png
.venv/bin/python scripts/analytic_pictures.py my_robot.yaml mine.png --canvas frame.png

With a frame of the real canvas, the drawn outlines must lie on the robot's: that is the test of a
calibration.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from matplotlib import pyplot as plt

from vera_core.contract import load_contract
from vera_core.seams import Image
from vera_jidm.analytic import AnalyticJacobian
from vera_jidm.pictures import flow_colours


def links_picture(model: AnalyticJacobian, q: np.ndarray) -> Image:
    """Links by colour, darker where the surface turns away, uint8 [H, W, 3]."""
    posture = model.posture(q)
    out = np.full((model.height, model.width, 3), 255, np.uint8)
    for view in model.views:
        surface = model.surface(view, posture)
        seen = surface.link >= 0
        depth = np.where(seen, surface.depth, surface.depth[seen].max() if seen.any() else 1.0)
        slope = np.hypot(*np.gradient(depth)) * view.camera.focal[0] / depth.mean()
        hue = (surface.link * 47 % 180).astype(np.uint8)
        value = np.clip(235 / np.sqrt(1 + 0.25 * slope**2), 60, 255).astype(np.uint8)
        hsv = np.stack([hue, np.full_like(hue, 120), value], -1)
        rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        out[view.box.area][seen] = rgb[seen]
    return out


def overlay(model: AnalyticJacobian, q: np.ndarray, frame: Image) -> Image:
    """Outlines of the links in red on a frame of the canvas, uint8 [H, W, 3]."""
    links = model.links(q).astype(np.float32)
    edge = cv2.dilate(links, np.ones((3, 3))) != cv2.erode(links, np.ones((3, 3)))
    out = frame.copy()
    out[edge] = (255, 0, 0)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('contract', help='embodiment: a name, or the path of a YAML file')
    parser.add_argument('output', type=Path)
    parser.add_argument('--canvas', type=Path, help='a frame of the canvas to draw outlines on')
    parser.add_argument('--joints', type=float, nargs='+', help='rad or m; home unless given')
    options = parser.parse_args()
    try:
        contract = load_contract(options.contract)
        model = AnalyticJacobian.from_contract(contract)
        q = np.array(options.joints or contract.home_positions)
        J = model.jacobian(q)[0] * contract.channel_scales
    except ValueError as error:
        parser.error(str(error))
    if options.canvas:
        frame = cv2.imread(str(options.canvas))
        if frame is None or frame.shape != (model.height, model.width, 3):
            parser.error(f'{options.canvas} is no picture of {model.width} x {model.height} px')
        first = overlay(model, q, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    else:
        first = links_picture(model, q)
    n = J.shape[-1]
    columns = min(4, n + 1)
    rows = -(-(n + 1) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 0.3 + 3.2 * rows * model.height / model.width),
        squeeze=False,
    )
    for axis in axes.flat:
        axis.axis('off')
    axes.flat[0].imshow(first)
    axes.flat[0].set_title('links', fontsize=9)
    for k, channel in enumerate(contract.channels):
        reach = max(float(np.linalg.norm(J[..., k], axis=2).max()), 1e-6)
        axes.flat[k + 1].imshow(flow_colours(J[..., k], reach))
        title = f'{channel.name} by {channel.scale:g} {channel.unit}: {reach:.1f} px'
        axes.flat[k + 1].set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(options.output, dpi=80)


if __name__ == '__main__':
    main()
