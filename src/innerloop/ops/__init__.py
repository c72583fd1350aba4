"""Kernels that may differ from task to task, attention in blocks, and matrix products that are fast on a CPU."""

from innerloop.ops.attention import dot_product_attention
from innerloop.ops.conv import conv2d, conv_general_dilated
from innerloop.ops.pool import max_pool
from innerloop.ops.products import row_major

__all__ = ["conv2d", "conv_general_dilated", "dot_product_attention", "max_pool", "row_major"]
