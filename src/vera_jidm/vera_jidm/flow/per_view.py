"""Flow of a canvas of several views: each view by itself, never across a border."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vera_core.contract import Contract
from vera_core.seams import Array, Image
from vera_jidm.flow.base import SMALLEST, FlowError, FlowPair, PairFlow, check_images
from vera_jidm.views import ViewBox, check_boxes, view_boxes


class PerViewFlow(PairFlow):
    """An estimator applied to each view of a canvas; views of one size go through as one batch.

    Padding and views of weight 0 get zero flow of weight 0. The other views' weights are for the
    solve (vera_jidm.views.row_weights), not for the trust in the flow.

    Args:
        estimator: of single views. Its flow_id stays: a checkpoint pins the views by its contract.
        boxes: of the views.
        height: of the canvas, px.
        width: likewise.

    Raises:
        FlowError: a view too small for flow.
        ViewError: boxes outside of the canvas or overlapping.
    """

    def __init__(
        self, estimator: PairFlow, boxes: Sequence[ViewBox], height: int, width: int
    ) -> None:
        check_boxes(boxes, height, width)
        self.flow_id = estimator.flow_id
        self._estimator, self._size = estimator, (height, width)
        self._groups: dict[tuple[int, int], list[ViewBox]] = {}
        for box in boxes:
            if box.weight == 0:
                continue
            if min(box.height, box.width) < SMALLEST:
                raise FlowError(
                    f'view {box.name!r} is {box.width} x {box.height} px on the canvas, too small '
                    f'for flow ({SMALLEST}); make the canvas higher or give the view weight 0'
                )
            self._groups.setdefault((box.height, box.width), []).append(box)

    def both(self, a: Image, b: Image) -> FlowPair:
        """Flow of canvases, uint8 [N, H, W, 3] each; see PairFlow.both."""
        check_images(a, b)
        if a.shape[1:3] != self._size:
            raise FlowError(
                f'canvases of {a.shape[2]} x {a.shape[1]} px; the views are laid out on '
                f'{self._size[1]} x {self._size[0]}'
            )
        n = len(a)
        out = FlowPair(
            np.zeros((*a.shape[:3], 2), np.float32), np.zeros((*a.shape[:3], 2), np.float32),
            np.zeros(a.shape[:3], np.float32), np.zeros(a.shape[:3], np.float32),
        )
        for boxes in self._groups.values():
            pair = self._estimator.both(_crops(a, boxes), _crops(b, boxes))
            for i, box in enumerate(boxes):
                at = (slice(None), *box.area)
                mine = slice(i * n, (i + 1) * n)
                out.forward[at] = pair.forward[mine]
                out.backward[at] = pair.backward[mine]
                out.weight_forward[at] = pair.weight_forward[mine]
                out.weight_backward[at] = pair.weight_backward[mine]
        return out

    def directions(self, a: Image, b: Image) -> tuple[Array, Array]:
        """Flow a -> b and b -> a, float32 [N, H, W, 2] px each."""
        pair = self.both(a, b)
        return pair.forward, pair.backward


def per_view(
    estimator: PairFlow, of: Contract | Sequence[ViewBox], height: int = 0, width: int = 0
) -> PairFlow:
    """The estimator, made to keep to the views; itself if one view fills the canvas.

    Args:
        estimator: of single views; one that is per view already comes back as it is.
        of: a contract, or the boxes of the views and then also the size of the canvas.
        height: of the canvas [px], with boxes.
        width: likewise.
    """
    if isinstance(of, Contract):
        boxes: Sequence[ViewBox] = view_boxes(of)
        height, width = of.canvas.height, of.canvas.width
    else:
        boxes = of
    whole = len(boxes) == 1 and (boxes[0].height, boxes[0].width) == (height, width)
    if whole or isinstance(estimator, PerViewFlow):
        return estimator
    return PerViewFlow(estimator, boxes, height, width)


def _crops(images: Image, boxes: Sequence[ViewBox]) -> Image:
    return np.concatenate([images[:, box.y0 : box.y1, box.x0 : box.x1] for box in boxes])
