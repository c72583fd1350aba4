"""Images as a learner reads them, in training and at adaptation."""

from innerloop.pictures import ImageFormat


def format_of(shape: tuple[int, int, int]) -> ImageFormat:
    """How images are read by a learner of that height, width and channels.

    Args:
        shape: as `Design.image` has it.
    """
    return ImageFormat(*shape, resampling="box")
