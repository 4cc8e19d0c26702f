"""The size that a photo is brought to; light to import, for the processes that only read photos."""


def shortest_edge_size(height: int, width: int, size: int, max_size: int) -> tuple[int, int]:
    """Give (height, width) with a shorter edge of ``size``, or less where the longer would pass ``max_size``.

    All in pixels. Rounded as in detectron2's ResizeShortestEdge, which the published results were measured
    with.
    """
    scale = size / min(height, width)
    new_height, new_width = (size, scale * width) if height < width else (scale * height, size)
    excess = max(new_height, new_width) / max_size
    if excess > 1:
        new_height, new_width = new_height / excess, new_width / excess
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))
