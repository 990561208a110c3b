"""The places of operands for Triton's kernels: in a table of addresses, and in a list of numbers."""

from __future__ import annotations

import triton.language as tl

# Rows of the table of addresses.
THETA = tl.constexpr(0)
GRAD = tl.constexpr(1)
ALONG = tl.constexpr(2)  # z, or the last direction
FIRST = tl.constexpr(3)  # v of momentum, m of Adam
SECOND = tl.constexpr(4)  # v of Adam
STEP = tl.constexpr(5)  # Adam's t, one float32

# Places in ``numbers``, which are float64.
SIGN = tl.constexpr(0)  # −1 to maximize
COUPLED_DECAY = tl.constexpr(1)
DECAY = tl.constexpr(2)  # λ, decoupled
BETA1 = tl.constexpr(3)  # or μ
BETA2 = tl.constexpr(4)
EPS = tl.constexpr(5)
LOG_BETA1 = tl.constexpr(6)
LOG_BETA2 = tl.constexpr(7)
HYPERGRAD_LR = tl.constexpr(8)
LOP_BETA1 = tl.constexpr(9)  # or μ
LOP_BETA2 = tl.constexpr(10)
LOP_EPS = tl.constexpr(11)
LOP_LOG_BETA1 = tl.constexpr(12)
LOP_LOG_BETA2 = tl.constexpr(13)
LOWEST = tl.constexpr(14)  # of α
HIGHEST = tl.constexpr(15)
TRACE_DECAY = tl.constexpr(16)
LARGEST_STEP = tl.constexpr(17)
FIRST_STEP_LOW = tl.constexpr(18)
FIRST_STEP_HIGH = tl.constexpr(19)
SCHEDULE = tl.constexpr(20)
TINY = tl.constexpr(21)  # the smallest normal number of α's dtype
SMALLEST_SQUARE = tl.constexpr(22)  # the smallest mean square of θ; a smaller one counts as this


COUNTS = (
    *("rows", "present", "total", "tile_count", "members", "elements", "alphas"),
    *("alpha_stride", "beta_stride", "schedule_stride"),
)
"""Arguments for whose values Triton compiles nothing anew."""
