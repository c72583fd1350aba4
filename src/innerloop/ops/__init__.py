"""Operations whose kernels may differ from task to task, and matrix products that are fast on a CPU."""

from innerloop.ops.conv import conv2d, conv_general_dilated
from innerloop.ops.pool import max_pool
from innerloop.ops.products import row_major

__all__ = ["conv2d", "conv_general_dilated", "max_pool", "row_major"]
