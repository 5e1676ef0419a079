"""A bag as the training's import reads it: MCAP with plain images, whatever it was before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from vera_bringup.bag_reading import Bag, BagError
from vera_bringup.recording import Recording
from vera_bringup.replaying import plain
from vera_bringup.resources import message_definition


@contextmanager
def readable(path: Path, topics: list[str], place: Path) -> Iterator[Path]:
    """The bag itself if it is plain MCAP; else a copy of these topics, for as long as it is needed.

    Args:
        path: of the bag, of any storage; its images may be JPEG.
        topics: names of images and others as the graph has them; those that lack are left out.
        place: an existing folder with room for the copy.

    Raises:
        BagError: the bag cannot be read, or the copy not be written.
    """
    with Bag(path) as bag:
        sources = {name: bag.image_source(name) for name in topics}
        is_mcap = path.is_file() or bool(list(path.glob('*.mcap')))
        if is_mcap and all(source in (name, None) for name, source in sources.items()):
            yield path
            return
        with TemporaryDirectory(dir=place, prefix='.plain-') as folder:
            copy = Recording(Path(folder), message_definition)
            known: set[str] = set()
            for raw in bag.messages([source for source in sources.values() if source]):
                message = plain(raw)
                if message.topic not in known:
                    known.add(message.topic)
                    copy.add_topic(message.topic, message.type_name)
                copy.write(message.topic, message.data, message.logged)
            copy.close()
            if copy.failure:
                raise BagError(copy.failure)
            yield Path(folder)


__all__ = ['readable']
