"""A camera's calibration put into the text of a contract; everything else stays as it is."""

from __future__ import annotations

from pathlib import Path

import yaml

from vera_core.contract import Calibration, load_contract
from vera_core.contract_reader import ContractError
from vera_drivers.calibration.hand_eye import CalibrationError

KEY = 'calibration'


def block(calibration: Calibration) -> str:
    """The YAML of one calibration, an item of the contract's list."""

    def numbers(values: tuple[float, ...], digits: int) -> str:
        return '[' + ', '.join(f'{value:.{digits}f}' for value in values) + ']'

    lines = [
        f'- name: {calibration.name}',
        f'  focal: {numbers(calibration.focal, 3)}      # px',
        f'  centre: {numbers(calibration.centre, 3)}      # px',
        f'  position: {numbers(calibration.position, 5)}      # m',
        f'  orientation: {numbers(calibration.orientation, 8)}',
    ]
    if calibration.link is not None:
        lines.append(f'  link: {calibration.link}')
    return '\n'.join(lines) + '\n'


def with_calibration(text: str, calibration: Calibration) -> str:
    """The contract's text with this calibration in the place of the camera's old one, or added.

    Raises:
        CalibrationError: `calibration` is no list in block style.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    found = [(key, value) for key, value in pairs if key.value == KEY]
    if not found:
        gap = '' if text.endswith('\n') else '\n'
        return f'{text}{gap}\n{KEY}:\n{_indented(block(calibration), 2)}'
    key, value = found[0]
    if not isinstance(value, yaml.SequenceNode) or value.flow_style:
        raise CalibrationError(
            f'line {key.start_mark.line + 1}: `{KEY}` is no list with one item a line; write it so'
        )
    lines = text.splitlines(keepends=True)
    indent = value.start_mark.column
    begins = [item.start_mark.line for item in value.value]
    # A list ends where the next key stands; comments before that one belong to it.
    last = value.value[-1]
    end = last.end_mark.line if last.end_mark.column == 0 else last.end_mark.line + 1
    while end > begins[-1] + 1 and _says_nothing(lines[end - 1]):
        end -= 1
    ends = [*begins[1:], end]
    new = _indented(block(calibration), indent)
    for item, begin, stop in zip(value.value, begins, ends, strict=True):
        names = [v.value for k, v in getattr(item, 'value', []) if k.value == 'name']
        if names == [calibration.name]:
            while stop > begin + 1 and _says_nothing(lines[stop - 1]):
                stop -= 1
            return ''.join([*lines[:begin], new, *lines[stop:]])
    head = ''.join(lines[:end])
    return ''.join([head, '' if head.endswith('\n') else '\n', new, *lines[end:]])


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Put a calibration into a contract's file; the file is whole at any time.

    Raises:
        CalibrationError: the file cannot be written, or would be no contract any more.
    """
    part = path.with_name(f'.{path.stem}.new{path.suffix}')
    try:
        part.write_text(
            with_calibration(path.read_text(encoding='utf-8'), calibration), encoding='utf-8'
        )
        written = {c.name: c for c in load_contract(part).calibration}.get(calibration.name)
        if written is None or written.link != calibration.link:
            raise CalibrationError(f'{path}: the calibration could not be put in; do it by hand')
        part.chmod(path.stat().st_mode)
        part.replace(path)
    except OSError as error:
        raise CalibrationError(
            f'{path} cannot be written: {error.strerror}; put the lines in by hand'
        ) from error
    except (ContractError, yaml.YAMLError) as error:
        raise CalibrationError(f'{path} would be no contract any more: {error}') from error
    finally:
        part.unlink(missing_ok=True)


def _indented(text: str, columns: int) -> str:
    return ''.join(' ' * columns + line for line in text.splitlines(keepends=True))


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith('#')


__all__ = ['block', 'with_calibration', 'write_calibration']
