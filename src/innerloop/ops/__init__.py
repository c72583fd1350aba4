"""Operations whose kernels may differ from task to task."""

from innerloop.ops.conv import conv2d, conv_general_dilated
from innerloop.ops.pool import max_pool

__all__ = ["conv2d", "conv_general_dilated", "max_pool"]
