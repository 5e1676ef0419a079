"""When which message of a bag is sent again: pure timing and choice of topics, no ROS."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vera_bringup import jpeg
from vera_bringup.bag_reading import Bag, BagError, Raw

# What the graph itself says anew when it is replayed into, and what would only confuse it.
NEVER = re.compile(r'^/(rosout|parameter_events|diagnostics)$|/transition_event$')
Clock = Callable[[], float]
Wait = Callable[[float], bool]


@dataclass(frozen=True)
class ReplayOptions:
    """What is replayed, and how fast.

    Attributes:
        rate: 2: twice as fast. topics, exclude: regular expressions; empty: all, none.
        start, end: seconds from the beginning of the bag; end None: to its end.
        loops: how often; 0: until it is stopped.
    """

    rate: float = 1.0
    topics: str = ''
    exclude: str = ''
    start: float = 0.0
    end: float | None = None
    loops: int = 1

    def chosen(self, bag: Bag) -> list[str]:
        """Topics of the bag that are sent; raises BagError if there are none."""
        try:
            wanted, unwanted = re.compile(self.topics), re.compile(self.exclude or r'(?!)')
        except re.error as error:
            raise BagError(f'no regular expression: {error}') from error
        found = [
            name
            for name in bag.topics
            if wanted.search(name) and not unwanted.search(name)
            and (self.topics or not NEVER.search(name))
        ]  # fmt: skip
        if not found:
            raise BagError(f'{bag.path} has no such topic; it has {", ".join(bag.topics)}')
        return found


def plain(raw: Raw) -> Raw:
    """A JPEG as the image that it was made of, on the topic where it was; all else as it is."""
    if raw.type_name != jpeg.COMPRESSED or not raw.topic.endswith(jpeg.SUFFIX):
        return raw
    image = jpeg.decompress(raw.data)
    if image is None:
        return raw
    name = raw.topic.removesuffix(jpeg.SUFFIX)
    return replace(raw, topic=name, type_name=jpeg.IMAGE, data=image)


def timed(bag: Bag, options: ReplayOptions, clock: Clock, wait: Wait) -> Iterator[Raw]:
    """The messages, each when it is due, with the spacing in which they were recorded.

    Args:
        bag: open.
        options: see there.
        clock: monotonic seconds.
        wait: sleeps so many seconds; False: stop.

    Raises:
        BagError: nothing to send, or a damaged bag.
    """
    if not options.rate > 0:
        raise BagError(f'a rate of {options.rate}; it must be positive')
    topics = options.chosen(bag)
    begin = bag.begin + round(options.start * 1e9)
    end = None if options.end is None else bag.begin + round(options.end * 1e9)
    done = 0
    while options.loops == 0 or done < options.loops:
        began, sent = clock(), False
        for raw in bag.messages(topics, begin, end):
            due = began + (raw.logged - begin) / 1e9 / options.rate
            left = due - clock()
            if left > 0 and not wait(left):
                return
            sent = True
            yield plain(raw)
        if not sent:
            raise BagError(f'{bag.path}: no message between the times that were asked for')
        done += 1


__all__ = ['ReplayOptions', 'plain', 'timed']
