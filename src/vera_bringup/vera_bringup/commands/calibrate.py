"""`vera calibrate`: a board to print, and where a camera is. `vera cameras`: what is connected."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import check_domain, check_namespace, new_run_dir
from vera_core.contract import Calibration, Contract, load_contract
from vera_core.contract_files import find_contract
from vera_core.contract_reader import ContractError
from vera_core.rotations import quaternion_from_matrix
from vera_drivers.calibration.board import Board, BoardError
from vera_drivers.calibration.contract_text import block, write_calibration
from vera_drivers.calibration.hand_eye import LEAST_VIEWS, CalibrationError, Result, solve
from vera_drivers.calibration.samples import Collector, Samples, mounting, read_samples
from vera_drivers.cameras.base import CameraError
from vera_drivers.registry import make_camera

if TYPE_CHECKING:
    from vera_bringup.nodes.joint_listener import JointListener
    from vera_drivers.cameras.base import ThreadedCamera

PATIENCE = 10.0  # s for joint_states
STATE_WAIT = 0.3  # s that a picture waits for the joints of its moment


def make_board(
    columns: int, rows: int, square_mm: float, marker_mm: float, dictionary: str
) -> Board:
    """The board of the options; CommandError if there is none such."""
    try:
        return Board(columns, rows, square_mm / 1e3, marker_mm / 1e3, dictionary)
    except BoardError as error:
        raise CommandError(str(error)) from error


def board(out: Path, given: Board, paper: str) -> None:
    """Write the board to print."""
    try:
        given.save(out, paper)
    except (BoardError, OSError) as error:
        raise CommandError(str(error)) from error
    print(f'{out}: print at 100 % on {paper}, check the 100 mm line, glue it on something flat')


def camera(
    embodiment: str,
    name: str,
    samples: Path | None,
    given: Board,
    *,
    link: str,
    board_link: str,
    driver: str,
    source: str,
    size: str,
    count: int,
    dry_run: bool,
    as_json: bool,
    runs: Path,
    domain: str | None,
    namespace: str,
) -> None:
    """Collect samples unless a folder of them is given, solve, report, write."""
    try:
        path = find_contract(embodiment)
        contract = load_contract(path)
        contract.camera(name)
        if samples is None:
            samples = new_run_dir(runs) / 'samples'
            _collect(
                contract, name, samples, given, link, board_link, driver, source, size, count,
                check_domain(domain), check_namespace(namespace),
            )
        found = read_samples(samples, contract)
        if found.camera != name:
            raise CommandError(f'{samples} holds pictures of camera {found.camera!r}, not {name!r}')
        result = solve(
            found.views, found.intrinsics, found.size, in_hand=found.mounting.in_hand
        )
        calibration = _calibration(contract, found, result)
        _print(found, result, samples)
        if as_json:
            print(json.dumps(_numbers(result, calibration)))
        if dry_run:
            print(f'\ncalibration:\n{block(calibration)}', end='')
            return
        write_calibration(path, calibration)
        print(f'written to {path}: calibration of {name}')
    except (ContractError, CalibrationError, CameraError) as error:
        raise CommandError(str(error), Exit.FAILED) from error


def _calibration(contract: Contract, found: Samples, result: Result) -> Calibration:
    """In pixels of the contract's images, which drivers cut and scale from those of the samples."""
    spec = contract.camera(found.camera)
    lens = result.intrinsics.fitted(found.size, spec.width, spec.height)
    x, y, z = result.mount[:3, 3].tolist()
    qx, qy, qz, qw = quaternion_from_matrix(result.mount[:3, :3]).tolist()
    return Calibration(
        name=found.camera, focal=lens.focal, centre=lens.centre, position=(x, y, z),
        orientation=(qx, qy, qz, qw), link=found.mounting.link,
    )


def _print(found: Samples, result: Result, folder: Path) -> None:
    for view in found.views:
        px = result.view_px.get(view.name)
        why = 'left out: does not fit the others' if view.name in result.left_out else ''
        text = f'{px:6.2f} px' if px is not None else why or 'left out: too few corners'
        print(f'{view.name}  {view.seen.count:3d} corners  {text}')
    where = found.mounting.link or found.mounting.tree.urdf.root
    x, y, z = result.mount[:3, 3]
    print(
        f'{len(result.view_px)} pictures of {folder}: residual {result.rms_px:.2f} px, '
        f'{result.rms_mm:.2f} mm\n'
        f'{found.camera} in {where}: ({x:.4f}, {y:.4f}, {z:.4f}) m, known to '
        f'{result.sigma_mm:.2f} mm and {result.sigma_deg:.3f} degrees'
    )
    for warning in result.warnings:
        print(f'warning: {warning}')


def _numbers(result: Result, calibration: Calibration) -> dict[str, object]:
    return {
        'calibration': dataclasses.asdict(calibration),
        'rms_px': result.rms_px,
        'rms_mm': result.rms_mm,
        'sigma_mm': result.sigma_mm,
        'sigma_deg': result.sigma_deg,
        'pictures': len(result.view_px),
        'left_out': list(result.left_out),
        'warnings': list(result.warnings),
    }


# Taking pictures ---------------------------------------------------------------------------------


def _collect(
    contract: Contract, name: str, folder: Path, given: Board, link: str, board_link: str,
    driver: str, source: str, size: str, count: int, domain: int, namespace: str,
) -> None:  # fmt: skip
    from vera_bringup.nodes.joint_listener import JointListener

    mount = mounting(contract, name, link, board_link)
    width, height = _size(size)
    spec = dataclasses.replace(contract.camera(name), width=width, height=height, crop=None)
    what = f'the camera is on {mount.link}; lay the board where it can be seen' if mount.in_hand \
        else f'the camera stands still; fix the board to {mount.moving}'  # fmt: skip
    with (
        JointListener(contract, domain, namespace) as joints,
        make_camera(spec, driver, source) as device,
    ):
        if not joints.until(lambda: not joints.problem, PATIENCE):
            raise CommandError(
                f'{joints.problem} on ROS domain {domain} in namespace /{namespace}: start the '
                'robot (its controller publishes joint_states), and move it by hand',
                Exit.NO_GRAPH,
            )
        collector = Collector(folder, name, given, mount, device.intrinsics)
        print(
            f'{device.device}, {width}x{height}: {what}.\nMove the arm to {count} poses, tilting '
            'it by 20 to 40 degrees this way and that, and rest at each; Ctrl-C ends early.'
        )
        try:
            _take(device, joints, collector, count)
        except KeyboardInterrupt:
            if collector.count < LEAST_VIEWS:
                raise
            print()


def _take(
    device: ThreadedCamera, joints: JointListener, collector: Collector, count: int
) -> None:
    stamp: int | None = None
    said = ''
    while collector.count < count:
        frame = device.wait_newer(stamp, 5.0)
        stamp = frame.stamp
        joints.await_moment(frame.stamp, STATE_WAIT)
        taken, text = collector.offer(frame.image, frame.stamp, joints.states)
        if taken or text != said:
            clock = time.strftime('%H:%M:%S')
            print(f'{clock}  {collector.count:3d} of {count}  {text}', flush=True)
        said = text


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition('x')
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise CommandError(f'size {text!r}; write e.g. 640x480')
    return int(width), int(height)


# What is connected -------------------------------------------------------------------------------


def cameras() -> None:
    """Print the RealSense devices and video devices of this machine."""
    from vera_drivers.cameras.opencv import known_devices
    from vera_drivers.cameras.realsense import connected_devices

    try:
        found = connected_devices()
        for info in found:
            print(
                f'realsense  {info.serial}  {info.model}, firmware {info.firmware}, USB {info.usb}'
            )
            if info.warning:
                print(f'           warning: {info.warning}')
        if not found:
            print('realsense  none')
    except CameraError as error:
        print(f'realsense  {error}')
    for path in known_devices() or ['none']:
        print(f'opencv     {path}')


__all__ = ['board', 'camera', 'cameras', 'make_board']
