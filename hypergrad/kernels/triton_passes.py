"""Triton's two passes over the parameters; between them ``triton_alpha`` learns α.

    first_pass      ⟨g_t, d_{t−1}⟩ of each tile, or the products of a traced step; the op's states move to u_t
    second_pass     θ ← θ − αs (u_t + λθ), and z ← keep·z + s (u_t + λθ)

A *row* is a tensor that takes part in the step: first those with a gradient, then those that rest but share
the α, whose traces still fade. The rows consist of *tiles*, one row's after the other's. With N members each
tensor stacks N blocks of ``sizes[row]`` elements, and program b works on tile b % tiles of member b // tiles.

A program reads and writes a whole tile 16 bytes at a time if its addresses are multiples of 16. No kernel
uses atomics: a sum adds one partial sum per tile, in an order that depends on the sizes alone. So the same
operands give the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hypergrad.kernels.triton_numbers import (
    ALONG,
    BETA1,
    BETA2,
    COUNTS,
    COUPLED_DECAY,
    DECAY,
    EPS,
    FIRST,
    GRAD,
    LOG_BETA1,
    LOG_BETA2,
    SECOND,
    SIGN,
    STEP,
    THETA,
)

# ---- Elements of tensors, through addresses ----


@triton.jit
def _read(
    address, start, left, DTYPE: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr
):
    pointer = address.to(tl.pointer_type(DTYPE))
    offsets = start + tl.arange(0, BLOCK)
    if FULL:
        return tl.load(tl.multiple_of(pointer, 16) + offsets).to(COMPUTE)
    else:
        return tl.load(pointer + offsets, mask=offsets < left, other=0.0).to(COMPUTE)


@triton.jit
def _write(address, start, left, value, DTYPE: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr):
    pointer = address.to(tl.pointer_type(DTYPE))
    offsets = start + tl.arange(0, BLOCK)
    if FULL:
        tl.store(tl.multiple_of(pointer, 16) + offsets, value.to(DTYPE))
    else:
        tl.store(pointer + offsets, value.to(DTYPE), mask=offsets < left)


@triton.jit
def _product(a, b, start, left, BLOCK: tl.constexpr, FULL: tl.constexpr):
    product = a.to(tl.float64) * b.to(tl.float64)
    if FULL:
        return product
    else:  # beyond the end Adam divides 0 by 0 if ε is 0
        return tl.where(start + tl.arange(0, BLOCK) < left, product, 0.0)


@triton.jit
def _corrections(count, numbers):
    """Return the scale and shift of u = m / (√v·scale + shift). At step 0, m = 0: shift 1 gives u = 0."""
    first = 1.0 - tl.exp(count * tl.load(numbers + LOG_BETA1))
    second = 1.0 - tl.exp(count * tl.load(numbers + LOG_BETA2))
    started = count > 0
    scale = tl.where(started, first / tl.sqrt(tl.where(started, second, 1.0)), 1.0)
    return scale, tl.where(started, first * tl.load(numbers + EPS), 1.0)


@triton.jit
def _adam(m, v, scale, shift):
    if m.dtype == tl.float32:  # / and sqrt would be approximate
        return tl.div_rn(m, tl.sqrt_rn(v) * scale + shift)
    else:
        return m / (tl.sqrt(v) * scale + shift)


@triton.jit
def _place(addresses, rows, row, origin, DTYPE: tl.constexpr, WHICH: tl.constexpr):
    return tl.load(addresses + WHICH * rows + row) + origin * (DTYPE.primitive_bitwidth // 8)


@triton.jit
def _gradient_factor(numbers, grad_scale):
    factor = tl.load(numbers + SIGN)
    if grad_scale is not None:
        factor = factor * (1.0 / tl.load(grad_scale).to(tl.float64)).to(tl.float32).to(tl.float64)
    return factor


# ---- The first pass ----


@triton.jit
def _first_tile(
    theta, grad, along, first, second, count, decay, factor, left, numbers, sums, stride,
    OP: tl.constexpr, TRACED: tl.constexpr, NORMS: tl.constexpr, COUPLED: tl.constexpr, DECAYED: tl.constexpr,
    DTYPE: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    coupled = tl.load(numbers + COUPLED_DECAY).to(COMPUTE)
    decoupled = tl.load(numbers + DECAY).to(COMPUTE)
    beta1 = tl.load(numbers + BETA1)
    beta2 = tl.load(numbers + BETA2)
    rest1 = (1.0 - beta1).to(COMPUTE)
    rest2 = (1.0 - beta2).to(COMPUTE)
    beta1 = beta1.to(COMPUTE)
    beta2 = beta2.to(COMPUTE)
    factor = factor.to(COMPUTE)
    decay = decay.to(COMPUTE)
    if OP == "adam":
        # A traced step needs u_t, any other step u_{t−1}.
        scale, shift = _corrections(count + (1.0 if TRACED else 0.0), numbers)
        scale = scale.to(COMPUTE)
        shift = shift.to(COMPUTE)
    dots = tl.zeros([BLOCK], tl.float64)
    g_squares = tl.zeros([BLOCK], tl.float64)
    d_squares = tl.zeros([BLOCK], tl.float64)
    theta_squares = tl.zeros([BLOCK], tl.float64)
    e_squares = tl.zeros([BLOCK], tl.float64)
    for block in range(BLOCKS):
        start = block * BLOCK
        g = _read(grad, start, left, DTYPE, COMPUTE, BLOCK, FULL) * factor
        if COUPLED or TRACED or DECAYED:
            x = _read(theta, start, left, DTYPE, COMPUTE, BLOCK, FULL)
        if COUPLED:
            g += coupled * x
        if OP == "sgd":
            u = g
            if not TRACED:
                d = _read(along, start, left, DTYPE, COMPUTE, BLOCK, FULL)
                _write(along, start, left, u, DTYPE, BLOCK, FULL)
        elif OP == "adam":
            m = _read(first, start, left, DTYPE, COMPUTE, BLOCK, FULL)
            v = _read(second, start, left, DTYPE, COMPUTE, BLOCK, FULL)
            if not TRACED:
                d = _adam(m, v, scale, shift)
            m += (g - m) * rest1
            v = v * beta2 + g * g * rest2
            _write(first, start, left, m, DTYPE, BLOCK, FULL)
            _write(second, start, left, v, DTYPE, BLOCK, FULL)
            if TRACED:
                u = _adam(m, v, scale, shift)
        else:
            before = _read(first, start, left, DTYPE, COMPUTE, BLOCK, FULL)
            v = beta1 * before + g
            _write(first, start, left, v, DTYPE, BLOCK, FULL)
            if OP == "heavy ball":
                u = v
                if not TRACED:
                    d = before
            else:
                u = g + beta1 * v
                if not TRACED:
                    d = _read(along, start, left, DTYPE, COMPUTE, BLOCK, FULL)
                    _write(along, start, left, u, DTYPE, BLOCK, FULL)
        if TRACED:
            d = _read(along, start, left, DTYPE, COMPUTE, BLOCK, FULL)
            e = u + decoupled * x
            theta_squares += _product(x, x, start, left, BLOCK, FULL)
            e_squares += _product(e, e, start, left, BLOCK, FULL)
        elif DECAYED:
            d += decay * x
        dots += _product(g, d, start, left, BLOCK, FULL)
        if NORMS:
            g_squares += _product(g, g, start, left, BLOCK, FULL)
            d_squares += _product(d, d, start, left, BLOCK, FULL)
    tl.store(sums, tl.sum(dots, 0))
    if NORMS:
        tl.store(sums + stride, tl.sum(g_squares, 0))
        tl.store(sums + 2 * stride, tl.sum(d_squares, 0))
    if TRACED:
        tl.store(sums + 3 * stride, tl.sum(theta_squares, 0))
        tl.store(sums + 4 * stride, tl.sum(e_squares, 0))


@triton.jit
def _resting_tile(
    along, left, sums, stride,
    DTYPE: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    squares = tl.zeros([BLOCK], tl.float64)
    for block in range(BLOCKS):
        z = _read(along, block * BLOCK, left, DTYPE, COMPUTE, BLOCK, False)
        squares += _product(z, z, block * BLOCK, left, BLOCK, False)
    for column in tl.static_range(5):
        tl.store(sums + column * stride, tl.sum(squares, 0) if column == 2 else 0.0)


@triton.jit(do_not_specialize=COUNTS)
def first_pass(
    addresses, tiles, starts, sizes, places, numbers, sums, decays, grad_scale, found_inf,
    rows, present, tile_count, members,
    OP: tl.constexpr, TRACED: tl.constexpr, NORMS: tl.constexpr, COUPLED: tl.constexpr, RESTING: tl.constexpr,
    DTYPE: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Write the products of each tile, 1, 3 with ``NORMS`` or 5 with ``TRACED``; move the states to u_t.

    The products are ⟨g, d⟩, ⟨g, g⟩, ⟨d, d⟩, ⟨θ, θ⟩ and ⟨e, e⟩, as in ``hypergrad.kernels``.
    """
    program = tl.program_id(0)
    member = program // tile_count
    tile = program % tile_count
    row = tl.load(tiles + tile)
    within = (tile - tl.load(starts + row)).to(tl.int64) * (BLOCK * BLOCKS)
    size = tl.load(sizes + row)
    left = size - within
    origin = member * size + within
    sums += member * tile_count + tile
    stride = members * tile_count
    along = _place(addresses, rows, row, origin, DTYPE, ALONG)
    go = True
    if found_inf is not None:
        go = tl.load(found_inf) == 0
    resting = False
    if RESTING:
        resting = row >= present
    if go:
        if resting:
            _resting_tile(along, left, sums, stride, DTYPE, COMPUTE, BLOCK, BLOCKS)
        else:
            theta = _place(addresses, rows, row, origin, DTYPE, THETA)
            grad = _place(addresses, rows, row, origin, DTYPE, GRAD)
            first = _place(addresses, rows, row, origin, DTYPE, FIRST)
            second = _place(addresses, rows, row, origin, DTYPE, SECOND)
            count = 0.0
            if OP == "adam":
                count = tl.load(tl.load(addresses + STEP * rows + row).to(tl.pointer_type(tl.float32)))
            decay = 0.0
            if decays is not None:
                decay = tl.load(decays + tl.load(places + row))
            factor = _gradient_factor(numbers, grad_scale)
            # The device loads 16 bytes at once if all addresses are multiples of 16. Absent ones are 0.
            aligned = ((theta | grad | along | first | second) & 15) == 0
            if (left >= BLOCK * BLOCKS) & aligned:
                _first_tile(
                    theta, grad, along, first, second, count, decay, factor, left, numbers, sums, stride,
                    OP, TRACED, NORMS, COUPLED, decays is not None, DTYPE, COMPUTE, BLOCK, BLOCKS, True,
                )  # fmt: skip
            else:
                _first_tile(
                    theta, grad, along, first, second, count, decay, factor, left, numbers, sums, stride,
                    OP, TRACED, NORMS, COUPLED, decays is not None, DTYPE, COMPUTE, BLOCK, BLOCKS, False,
                )  # fmt: skip


# ---- The second pass ----


@triton.jit
def _second_tile(
    theta, grad, along, first, second, count, factor, rate, keep, schedule, left, numbers,
    OP: tl.constexpr, TRACED: tl.constexpr, COUPLED: tl.constexpr,
    DTYPE: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    coupled = tl.load(numbers + COUPLED_DECAY).to(COMPUTE)
    decoupled = tl.load(numbers + DECAY).to(COMPUTE)
    beta1 = tl.load(numbers + BETA1).to(COMPUTE)
    factor = factor.to(COMPUTE)
    rate = rate.to(COMPUTE)
    keep = keep.to(COMPUTE)
    schedule = schedule.to(COMPUTE)
    if OP == "adam":
        scale, shift = _corrections(count, numbers)
        scale = scale.to(COMPUTE)
        shift = shift.to(COMPUTE)
    for backwards in range(BLOCKS):
        start = (BLOCKS - 1 - backwards) * BLOCK
        x = _read(theta, start, left, DTYPE, COMPUTE, BLOCK, FULL)
        if OP == "adam":
            m = _read(first, start, left, DTYPE, COMPUTE, BLOCK, FULL)
            v = _read(second, start, left, DTYPE, COMPUTE, BLOCK, FULL)
            u = _adam(m, v, scale, shift)
        elif OP == "heavy ball":
            u = _read(first, start, left, DTYPE, COMPUTE, BLOCK, FULL)
        elif TRACED:
            u = _read(grad, start, left, DTYPE, COMPUTE, BLOCK, FULL) * factor
            if COUPLED:
                u += coupled * x
            if OP == "nesterov":
                u += beta1 * _read(first, start, left, DTYPE, COMPUTE, BLOCK, FULL)
        else:
            u = _read(along, start, left, DTYPE, COMPUTE, BLOCK, FULL)
        e = u + decoupled * x
        if TRACED:
            z = _read(along, start, left, DTYPE, COMPUTE, BLOCK, FULL)
            _write(along, start, left, keep * z + schedule * e, DTYPE, BLOCK, FULL)
        _write(theta, start, left, x - rate * e, DTYPE, BLOCK, FULL)


@triton.jit(do_not_specialize=COUNTS)
def second_pass(
    addresses, tiles, starts, sizes, places, numbers, moved, grad_scale, found_inf,
    rows, present, tile_count, members, alphas, alpha_stride,
    OP: tl.constexpr, TRACED: tl.constexpr, COUPLED: tl.constexpr, RESTING: tl.constexpr,
    DTYPE: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Move θ, and z with ``TRACED``. Begin with the last tiles, which may still be in the cache."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    member = program // tile_count
    tile = program % tile_count
    row = tl.load(tiles + tile)
    within = (tile - tl.load(starts + row)).to(tl.int64) * (BLOCK * BLOCKS)
    size = tl.load(sizes + row)
    left = size - within
    origin = member * size + within
    along = _place(addresses, rows, row, origin, DTYPE, ALONG)
    entry = tl.load(places + row) * alpha_stride + member
    go = True
    if found_inf is not None:
        go = tl.load(found_inf) == 0
    resting = False
    if RESTING:
        resting = row >= present
    if go:
        keep = 0.0
        if TRACED:
            keep = tl.load(moved + alphas + entry)
        if resting:
            for block in range(BLOCKS):
                z = _read(along, block * BLOCK, left, DTYPE, COMPUTE, BLOCK, False)
                _write(along, block * BLOCK, left, keep.to(COMPUTE) * z, DTYPE, BLOCK, False)
        else:
            rate = tl.load(moved + entry)
            schedule = tl.load(moved + 2 * alphas + entry)
            theta = _place(addresses, rows, row, origin, DTYPE, THETA)
            grad = theta
            if TRACED:  # no other step reads it
                grad = _place(addresses, rows, row, origin, DTYPE, GRAD)
            first = _place(addresses, rows, row, origin, DTYPE, FIRST)
            second = _place(addresses, rows, row, origin, DTYPE, SECOND)
            count = 0.0
            if OP == "adam":
                count = tl.load(tl.load(addresses + STEP * rows + row).to(tl.pointer_type(tl.float32)))
            factor = _gradient_factor(numbers, grad_scale)
            aligned = ((theta | grad | along | first | second) & 15) == 0
            if (left >= BLOCK * BLOCKS) & aligned:
                _second_tile(
                    theta, grad, along, first, second, count, factor, rate, keep, schedule, left, numbers,
                    OP, TRACED, COUPLED, DTYPE, COMPUTE, BLOCK, BLOCKS, True,
                )  # fmt: skip
            else:
                _second_tile(
                    theta, grad, along, first, second, count, factor, rate, keep, schedule, left, numbers,
                    OP, TRACED, COUPLED, DTYPE, COMPUTE, BLOCK, BLOCKS, False,
                )  # fmt: skip
