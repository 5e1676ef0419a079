"""The documentation as tests see it: pages, links, and the commands that stand in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: A line of an unnamed or indented block that begins with one of these is a command.
PROGRAMS = (
    'vera', 'make', 'ros2', 'python', 'python3', 'pip', 'torchrun', 'accelerate', 'hf', 'docker',
    'rviz2', 'uvx', 'sudo', 'colcon', 'rosdep',
)  # fmt: skip
#: Of the shell: a command follows; none follows.
KEYWORDS = frozenset(('do', 'then', 'else', 'if', 'while', 'until', '!', 'time'))
LOOPS = frozenset(('for', 'done', 'fi', 'case', 'esac', 'set', 'break'))
OPERATORS = frozenset(('&&', '||', ';', '|', '&', '(', ')', ';;'))
_SHELL = ('sh', 'bash', 'console')
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)")


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
        page: relative to the repository; line: of its block's beginning.
        block: number of the block within the page; -1 for code within a sentence.
        words: program first, without `.venv/bin/` and assignments before it.
        assigned: whether variables were set for it.
    """

    page: str
    line: int
    block: int
    words: tuple[str, ...]
    environment: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As it would be typed, with `vera` for `.venv/bin/vera`; placeholders unquoted."""
        return ' '.join(w if re.fullmatch(r'[^\s\'"]+', w) else shlex.quote(w) for w in self.words)

    def __str__(self) -> str:
        return f'{self.page}:{self.line}: {self.text}'


@cache
def pages() -> tuple[Path, ...]:
    """README, CONTRIBUTING and everything under docs/."""
    top = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']
    return (*top, *sorted((ROOT / 'docs').rglob('*.md')))


@dataclass(frozen=True)
class Block:
    """A block of code: its language ('' if it has none, 'indented'), first line, and text."""

    language: str
    line: int
    text: str


def blocks(text: str) -> Iterator[Block]:
    """Fenced and indented blocks of a Markdown page."""
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        fence = re.match(r'^(\s*)(`{3,}|~{3,})\s*([\w{}-]*)', lines[i])
        if fence:
            begin = i + 1
            i = begin
            while i < len(lines) and not lines[i].strip().startswith(fence[2]):
                i += 1
            yield Block(fence[3], begin + 1, '\n'.join(lines[begin:i]))
        elif lines[i].startswith('    ') and (i == 0 or not lines[i - 1].strip()):
            begin = i
            while i < len(lines) and (lines[i].startswith('    ') or not lines[i].strip()):
                i += 1
            yield Block('indented', begin + 1, '\n'.join(line[4:] for line in lines[begin:i]))
            continue
        i += 1


def logical_lines(text: str) -> Iterator[str]:
    """Lines of a shell block, continued ones joined, here-documents left out."""
    waiting, end = '', ''
    for line in text.splitlines():
        if end:
            end = '' if line.strip() == end else end
            continue
        waiting += line
        if waiting.endswith('\\'):
            waiting = waiting[:-1] + ' '
            continue
        try:
            shlex.split(waiting, comments=True)
        except ValueError:  # a quotation that goes on
            waiting += '\n'
            continue
        found = _HEREDOC.search(waiting)
        end = found[1] if found else ''
        yield waiting
        waiting = ''
    if waiting.strip():
        raise ValueError(f'a quotation is not closed: {waiting!r}')


def parse_line(line: str) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(assignments, words) of each command of a line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars='();|&')
    lexer.whitespace_split = True
    lexer.commenters = '#'
    words: list[str] = []
    for token in (*lexer, ';'):
        if token not in OPERATORS:
            words.append(token)
            continue
        given = [w for w in words if re.match(r'^[A-Z_]+=', w)] if words else []
        rest = words[len(given) :] if words[: len(given)] == given else words
        words = []
        while rest and rest[0] in KEYWORDS:
            rest = rest[1:]
        if rest and rest[0] not in LOOPS:
            rest[0] = re.sub(r'^(\./)?\.venv/bin/', '', rest[0])
            # [--option] may be left out, as people write.
            plain = (re.sub(r'^\[(-.*)\]$', r'\1', w) for w in rest)
            yield tuple(given), tuple(w for w in plain if w not in ('...', '$'))


def commands_of(page: Path) -> Iterator[Command]:
    """Every command in the blocks of a page."""
    name = str(page.relative_to(ROOT))
    for number, block in enumerate(blocks(page.read_text(encoding='utf-8'))):
        shell = block.language in _SHELL
        text = block.text
        if block.language == 'console':  # commands stand behind a prompt, output does not
            typed = (line for line in text.splitlines() if line.startswith('$ '))
            text = '\n'.join(line[2:] for line in typed)
        if not shell and block.language not in ('', 'indented'):
            continue
        for line in logical_lines(text) if shell else text.splitlines():
            first = re.match(r'^(?:\$ )?(?:\.venv/bin/)?([\w.-]+)', line)
            if not shell and not (first and first[1] in PROGRAMS):
                continue
            for given, words in parse_line(line.removeprefix('$ ')):
                yield Command(name, block.line, number, words, given)


def inline_commands_of(page: Path) -> Iterator[Command]:
    """Code within sentences that begins with `vera`, `make`, `ros2` and more words."""
    text = page.read_text(encoding='utf-8')
    for block in blocks(text):
        text = text.replace(block.text, '\n' * block.text.count('\n'))
    for found in re.finditer(r'(?<!`)`(?:\.venv/bin/)?((?:vera|make|ros2)\s[^`]+)`', text):
        line = text[: found.start()].count('\n') + 1
        for given, words in parse_line(re.sub(r'\s+', ' ', found[1])):
            yield Command(str(page.relative_to(ROOT)), line, -1, words, given)


def unnamed_shell_blocks(page: Path) -> list[int]:
    """Lines of fenced blocks that hold commands and do not say that they are `sh`."""
    found = []
    for block in blocks(page.read_text(encoding='utf-8')):
        first = re.match(r'^(?:\$ )?(?:\.venv/bin/)?([\w.-]+) ', block.text)
        if block.language == '' and first and first[1] in PROGRAMS:
            found.append(block.line)
    return found


@cache
def commands() -> tuple[Command, ...]:
    """Every command in a block of any page."""
    return tuple(command for page in pages() for command in commands_of(page))


@cache
def inline_commands() -> tuple[Command, ...]:
    """Every command within a sentence of any page."""
    return tuple(command for page in pages() for command in inline_commands_of(page))


def headings(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and MyST make them."""
    text = re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.M | re.S)
    found = set()
    for title in re.findall(r'^#{1,6}\s+(.*)$', text, flags=re.M):
        plain = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', title).strip().lower()
        found.add(re.sub(r'[^\w\- ]', '', plain).replace(' ', '-'))
    return found


def links(page: Path) -> Iterator[tuple[int, str]]:
    """(line, target) of every link and image that leads into the repository."""
    text = page.read_text(encoding='utf-8')
    for block in blocks(text):
        text = text.replace(block.text, '\n' * block.text.count('\n'))
    for found in re.finditer(r'\]\(([^)\s]+)\)', text):
        if not re.match(r'^[a-z]+:', found[1]):
            yield text[: found.start()].count('\n') + 1, found[1]
