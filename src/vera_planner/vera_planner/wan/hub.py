"""Models on the Hugging Face hub: pinned revisions, their licence, and what works without it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

COMMIT = re.compile(r'[0-9a-f]{40}')
REPOSITORY = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')
RESTRICTED = ('-nc', 'non-commercial', 'noncommercial', 'non commercial', 'research-only')
GB = 1e9


class HubError(RuntimeError):
    """A model that cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class Fetched:
    """Files of one commit.

    Attributes:
        folder: where they lie.
        revision: the commit, 40 hex digits.
        licence: as its page says; '' if unknown (taken from the cache, without asking the hub).
    """

    folder: Path
    revision: str
    licence: str


def is_repository(ref: str) -> bool:
    """Whether a text can be the id of a hub repository, owner/name."""
    return REPOSITORY.fullmatch(ref) is not None


def is_restricted(licence: str) -> bool:
    """Whether a licence forbids commercial use, judged by its name."""
    return any(word in licence.lower() for word in RESTRICTED)


def licence_line(name: str, licence: str) -> str:
    """What to tell whoever is about to use a model."""
    if is_restricted(licence):
        return (
            f'*** NON-COMMERCIAL: {name} is under {licence}. '
            'Commercial use is forbidden by its licence. ***'
        )
    return f'{name}: licence {licence or "unknown; see where it comes from before you use it"}'


def resolve(repo: str, revision: str | None, moving: bool) -> str:
    """The commit of a revision.

    Args:
        repo: owner/name.
        revision: 40 hex digits; or a branch or tag, or None for 'main', where `moving`.
        moving: whether a name that may change its meaning is fine; it is resolved now.

    Raises:
        HubError: a moving name without leave, an unknown revision, or no connection.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    named = 'no revision' if revision is None else f'revision {revision!r}, which can move'
    if not moving:
        raise HubError(
            f'{repo}: {named}; weights are pinned to a commit. `vera models show {repo}` prints '
            f'the commit of main now; use {repo}@COMMIT'
        )
    return str(_info(repo, revision or 'main').sha)


def page(repo: str, revision: str) -> tuple[str, str, int]:
    """Commit, licence and size [bytes] of a model as the hub tells.

    Raises:
        HubError: no connection, or no such model or revision.
    """
    info = _info(repo, revision)
    size = sum(file.size or 0 for file in info.siblings or [])
    return str(info.sha), _licence(info), size


def _info(repo: str, revision: str) -> Any:
    import huggingface_hub

    try:
        return huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
    except Exception as error:
        raise HubError(_reason(repo, revision, error)) from error


def _licence(info: Any) -> str:
    card = getattr(info, 'card_data', None)
    found = getattr(card, 'license', None) if card is not None else None
    if found in (None, 'other'):
        found = getattr(card, 'license_name', None) or found
    return str(found or '')


def fetch(
    repo: str,
    revision: str | None,
    wanted: Sequence[str],
    *,
    optional: Sequence[str] = (),
    moving: bool = False,
) -> Fetched:
    """Files of a model, from the cache, or downloaded after looking at their size.

    Args:
        repo: owner/name.
        revision: a commit; see `resolve`.
        wanted: patterns of file names, e.g. 'transformer/*'; each must have files.
        optional: patterns that need not have any.
        moving: see `resolve`.

    Raises:
        HubError: see `resolve`; or the disk is too small, or files are missing.
    """
    import huggingface_hub

    commit = resolve(repo, revision, moving)
    patterns = list(wanted)
    asked = [*wanted, *optional, 'README.md']  # the page names the licence
    try:
        cached = Path(
            huggingface_hub.snapshot_download(
                repo, revision=commit, allow_patterns=asked, local_files_only=True
            )
        )
        if complete(cached, patterns):
            return Fetched(cached, commit, licence_of(cached))
    except Exception as error:  # of any kind: it is not in the cache
        if not _is_absent(error):
            raise HubError(_reason(repo, commit, error)) from error
    info = _info(repo, commit)
    files = [f for f in info.siblings or [] if any(fnmatch(f.rfilename, p) for p in asked)]
    missing = [p for p in patterns if not any(fnmatch(f.rfilename, p) for f in files)]
    if missing:
        raise HubError(f'{repo} at {commit[:12]} has no {", ".join(missing)}')
    size = sum(file.size or 0 for file in files)
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    free = shutil.disk_usage(_existing(cache)).free
    if size > free:
        raise HubError(
            f'{repo} takes {size / GB:.1f} GB on disk; {free / GB:.1f} GB are free at {cache}. '
            'Make room, or set HF_HOME to a larger disk'
        )
    try:
        folder = huggingface_hub.snapshot_download(repo, revision=commit, allow_patterns=asked)
    except Exception as error:
        raise HubError(_reason(repo, commit, error)) from error
    return Fetched(Path(folder), commit, _licence(info))


def complete(folder: Path, patterns: Sequence[str]) -> bool:
    """Whether each pattern has its files, and each index of shards all of its shards."""
    files = {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()}
    if not all(any(fnmatch(name, pattern) for name in files) for pattern in patterns):
        return False
    for name in files:
        if name.endswith('.safetensors.index.json') and any(fnmatch(name, p) for p in patterns):
            shards = set(json.loads((folder / name).read_text())['weight_map'].values())
            parent = Path(name).parent
            if not all((parent / shard).as_posix() in files for shard in shards):
                return False
    return True


def licence_of(folder: Path) -> str:
    """The licence in a model's README; '' if there is none."""
    readme = folder / 'README.md'
    text = readme.read_text(errors='replace') if readme.is_file() else ''
    found = re.search(r'^license(?:_name)?:\s*(\S+)', text, re.MULTILINE)
    return found.group(1) if found else ''


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _is_absent(error: Exception) -> bool:
    from huggingface_hub import errors

    return isinstance(error, (errors.LocalEntryNotFoundError, FileNotFoundError))


def _reason(repo: str, revision: str, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f'{repo} wants you to accept its terms on its page first, then `hf auth login`'
    if isinstance(error, errors.RevisionNotFoundError):
        return f'{repo} has no revision {revision}'
    if isinstance(error, errors.RepositoryNotFoundError):
        return f'the hub has no model {repo}, or it is private (`hf auth login`)'
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f'{repo} at {revision[:12]} is not in the cache, and the hub cannot be reached ({first}). '
        f'On a machine with a connection: `hf download {repo} --revision {revision} --local-dir '
        'FOLDER`; then copy the folder here and give its path'
    )
