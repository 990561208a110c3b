"""Triton's kernels that learn α: in float64, on the device, from the sums of the first pass.

learn           h, α and the lop's state, for granularities "group" and "tensor"
sum_rows        the sums of each tensor, for "released" only
learn_released  h, α and the lop's state once per tensor, in order
"""

from __future__ import annotations

import triton
import triton.language as tl

from hypergrad.kernels.triton_numbers import (
    COUNTS,
    DECAY,
    FIRST_STEP_HIGH,
    FIRST_STEP_LOW,
    HIGHEST,
    HYPERGRAD_LR,
    LARGEST_STEP,
    LOP_BETA1,
    LOP_BETA2,
    LOP_EPS,
    LOP_LOG_BETA1,
    LOP_LOG_BETA2,
    LOWEST,
    SCHEDULE,
    SMALLEST_SQUARE,
    STEP,
    TINY,
    TRACE_DECAY,
)


@triton.jit
def _lop(h, first, second, count, numbers, LOP: tl.constexpr):
    """Return the step of α before its factor β, and the lop's state, as in ``hypergrad.rates``."""
    beta1 = tl.load(numbers + LOP_BETA1)
    beta2 = tl.load(numbers + LOP_BETA2)
    eps = tl.load(numbers + LOP_EPS)
    change = h
    if LOP == "sgdn":
        first = beta1 * first + h
        change = h + beta1 * first
    elif LOP == "adam":
        count += 1.0
        first += (1.0 - beta1) * (h - first)
        second = beta2 * second + (1.0 - beta2) * h * h
        correction1 = 1.0 - tl.exp(count * tl.load(numbers + LOP_LOG_BETA1))
        correction2 = 1.0 - tl.exp(count * tl.load(numbers + LOP_LOG_BETA2))
        change = first / correction1 / (tl.sqrt(second / correction2) + eps)
    elif LOP == "adagrad":
        second += h * h
        change = h / (tl.sqrt(second) + eps)
    elif LOP == "lion":
        ahead = beta1 * first + (1.0 - beta1) * h
        change = tl.where(ahead > 0, 1.0, tl.where(ahead < 0, -1.0, ahead))  # ahead: 0 or NaN
        first += (1.0 - beta2) * (h - first)
    return change, first, second, count


@triton.jit
def _at_least(x, low):  # these two keep NaN
    return tl.where(x < low, low, x)


@triton.jit
def _at_most(x, high):
    return tl.where(x > high, high, x)


@triton.jit
def _cosine(dot, g_square, d_square, numbers):
    return -dot / _at_least(tl.sqrt(g_square) * tl.sqrt(d_square), tl.load(numbers + TINY))


@triton.jit
def _maybe(pointer, at, mask):
    """Return the lop's state, or 0 if it has none at ``pointer``."""
    if pointer is None:
        return tl.zeros(at.shape, tl.float64)
    else:
        return tl.load(pointer + at, mask=mask, other=0.0).to(tl.float64)


@triton.jit
def _keep(pointer, at, value, mask):
    if pointer is not None:
        tl.store(pointer + at, value, mask=mask)


@triton.jit
def _number(pointer, at, numbers, which: tl.constexpr):
    """Return the number at ``pointer``, or without a pointer the one in ``numbers``."""
    if pointer is None:
        return tl.load(numbers + which)
    else:
        return tl.load(pointer + at).to(tl.float64)


@triton.jit
def _count_steps(addresses, rows, row, mask):
    step = tl.load(addresses + STEP * rows + row, mask=mask, other=0).to(tl.pointer_type(tl.float32))
    tl.store(step, tl.load(step, mask=mask, other=0.0) + 1.0, mask=mask)


@triton.jit(do_not_specialize=COUNTS)
def learn(
    addresses, tiles, starts, sizes, row_of, numbers, sums, found_inf,
    alpha, h, lop_first, lop_second, lop_count, beta, schedule, gains, decays, moved,
    rows, present, total, tile_count, members, elements, beta_stride, schedule_stride,
    LOP: tl.constexpr, BY_TENSOR: tl.constexpr, TRACED: tl.constexpr, NORMS: tl.constexpr,
    NORMALIZE: tl.constexpr, MULTIPLICATIVE: tl.constexpr, HELD: tl.constexpr, REMEMBER: tl.constexpr,
    COUNTED: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sum the tiles of one α, update it and the lop's state, and write h, and ``moved`` for the next pass."""
    tensor = tl.program_id(0)  # 0 for "group"
    member = tl.program_id(1)
    stride = members * tile_count
    here = tl.full([1], 0, tl.int32)  # the values of this α are vectors of one element
    entry = here + tensor * members + member
    row = 0
    begin = 0
    end = tile_count
    part = here >= 0
    if BY_TENSOR:
        row = tl.load(row_of + tensor)
        part = here + row >= 0  # a tensor without a gradient has no row
        takes_part = row >= 0
        row = tl.maximum(row, 0)
        begin = tl.load(starts + row)
        end = tl.where(takes_part, tl.load(starts + row + 1), begin)
        elements = tl.load(sizes + row)
    go = True
    if found_inf is not None:
        go = tl.load(found_inf) == 0
    if go:
        dots = tl.zeros([CHUNK], tl.float64)
        g_squares = tl.zeros([CHUNK], tl.float64)
        d_squares = tl.zeros([CHUNK], tl.float64)
        resting = tl.zeros([CHUNK], tl.float64)
        theta_squares = tl.zeros([CHUNK], tl.float64)
        e_squares = tl.zeros([CHUNK], tl.float64)
        for first_tile in range(begin, end, CHUNK):
            tile = first_tile + tl.arange(0, CHUNK)
            mask = tile < end
            at = sums + member * tile_count + tile
            row_at = tl.load(tiles + tile, mask=mask, other=0)
            gain = tl.full([CHUNK], 1.0, tl.float64)
            if gains is not None:
                tensor_at = tensor
                if not BY_TENSOR:
                    tensor_at = tl.load(row_of + total + row_at, mask=mask, other=0)
                gain = tl.load(gains + tensor_at * members + member + 0 * tile, mask=mask, other=0.0)
                gain = gain.to(tl.float64)
            dots += gain * tl.load(at, mask=mask, other=0.0)
            if NORMS:
                d_square = tl.load(at + 2 * stride, mask=mask, other=0.0)
                g_squares += tl.load(at + stride, mask=mask, other=0.0)
                d_squares += gain * gain * tl.where(row_at < present, d_square, 0.0)
                resting += tl.where(row_at < present, 0.0, d_square)
            if TRACED:
                theta_squares += tl.load(at + 3 * stride, mask=mask, other=0.0)
                e_squares += tl.load(at + 4 * stride, mask=mask, other=0.0)
        dot = here + tl.sum(dots, 0)
        g_square = here + tl.sum(g_squares, 0)
        d_square = here + tl.sum(d_squares, 0)
        before = tl.load(alpha + entry).to(tl.float64)
        first = _maybe(lop_first, entry, part)
        second = _maybe(lop_second, entry, part)
        count = _maybe(lop_count, entry, part)
        rate = _number(beta, member * beta_stride, numbers, HYPERGRAD_LR)
        factor = _number(schedule, member * schedule_stride, numbers, SCHEDULE)
        # No thread may write a value that another has yet to read.
        tl.debug_barrier()
        cosine = -dot
        if NORMS:
            cosine = _cosine(dot, g_square, d_square, numbers)
        slope = tl.where(part, cosine if NORMALIZE else -dot, 0.0)
        slope = slope.to(h.dtype.element_ty).to(tl.float64)
        given = slope
        if MULTIPLICATIVE and not NORMALIZE:
            given = slope * before
        change, first, second, count = _lop(given, first, second, count, numbers, LOP)
        change = tl.where(part, rate * change, 0.0)
        after = before - change
        if MULTIPLICATIVE:
            after = before * tl.exp(-change)
        if HELD:
            theta_square = _at_least(
                here + tl.sum(theta_squares, 0), tl.load(numbers + SMALLEST_SQUARE) * elements
            )
            e_square = here + tl.sum(e_squares, 0)
            holds = part & (e_square > 0)
            one = tl.sqrt(theta_square / tl.where(holds, e_square, 1.0))
            low = tl.full([1], float("-inf"), tl.float64)
            high = tl.load(numbers + LARGEST_STEP) * one
            fresh = d_square + tl.sum(resting, 0) == 0  # no step of this α yet
            low = tl.where(fresh, tl.load(numbers + FIRST_STEP_LOW) * one, low)
            high = tl.where(fresh, _at_most(high, tl.load(numbers + FIRST_STEP_HIGH) * one), high)
            after = tl.where(holds, _at_most(_at_least(after, low), high), after)
        after = _at_most(_at_least(after, tl.load(numbers + LOWEST)), tl.load(numbers + HIGHEST))
        after = after.to(alpha.dtype.element_ty).to(tl.float64)
        tl.store(alpha + entry, after)
        tl.store(h + entry, slope)
        _keep(lop_first, entry, first, part)
        _keep(lop_second, entry, second, part)
        _keep(lop_count, entry, count, part)
        alphas = members * (total if BY_TENSOR else 1)
        tl.store(moved + entry, after * factor)
        tl.store(moved + 2 * alphas + entry, here + factor)
        if TRACED:
            opposed = _at_most(_at_least(cosine, 0.0), 1.0)
            opposed = opposed * opposed
            keep = tl.load(numbers + TRACE_DECAY) * (1.0 - opposed * opposed)
            tl.store(moved + alphas + entry, keep)
        decay = tl.load(numbers + DECAY)
        gain = factor / (1.0 - after * factor * decay)
        if BY_TENSOR:
            first_of_all = part & (here + member == 0)
            if REMEMBER:
                tl.store(gains + entry, gain, mask=part)
                if decays is not None:
                    tl.store(decays + tensor + here, here + decay, mask=first_of_all)
            if COUNTED:
                _count_steps(addresses, rows, row + here, first_of_all)
        else:
            for first_tensor in range(0, total, CHUNK):
                each = first_tensor + tl.arange(0, CHUNK)
                mask = each < total
                row_at = tl.load(row_of + each, mask=mask, other=-1)
                counts = mask & (row_at >= 0) & (row_at < present)
                if REMEMBER:
                    tl.store(gains + each * members + member, tl.where(counts, gain, 0.0), mask=mask)
                    if decays is not None:
                        tl.store(decays + each, decay + 0.0 * each, mask=counts & (0 * each + member == 0))
                if COUNTED:
                    _count_steps(addresses, rows, row_at, counts & (0 * each + member == 0))


@triton.jit(do_not_specialize=COUNTS)
def sum_rows(
    starts, sums, row_sums, present, tile_count, members,
    COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sum the tiles of one row and one member."""
    row = tl.program_id(0)
    member = tl.program_id(1)
    begin = tl.load(starts + row)
    end = tl.load(starts + row + 1)
    for column in tl.static_range(COLUMNS):
        total = tl.zeros([CHUNK], tl.float64)
        for first_tile in range(begin, end, CHUNK):
            tile = first_tile + tl.arange(0, CHUNK)
            at = sums + (column * members + member) * tile_count + tile
            total += tl.load(at, mask=tile < end, other=0.0)
        tl.store(row_sums + (column * members + member) * present + row, tl.sum(total, 0))


@triton.jit(do_not_specialize=COUNTS)
def learn_released(
    addresses, row_of, numbers, row_sums, found_inf,
    alpha, h, lop_first, lop_second, lop_count, beta, schedule, gains, decays, moved,
    rows, present, total, members, beta_stride, schedule_stride,
    LOP: tl.constexpr, NORMALIZE: tl.constexpr, MULTIPLICATIVE: tl.constexpr, BOUNDED: tl.constexpr,
    REMEMBER: tl.constexpr, COUNTED: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Update one member's α and the lop's states once per tensor, in order, and write h and ``moved``."""
    member = tl.program_id(0)
    go = True
    if found_inf is not None:
        go = tl.load(found_inf) == 0
    if go:
        before = tl.load(alpha + member).to(tl.float64)
        rate = _number(beta, member * beta_stride, numbers, HYPERGRAD_LR)
        factor = _number(schedule, member * schedule_stride, numbers, SCHEDULE)
        decay = tl.load(numbers + DECAY)
        low = tl.load(numbers + LOWEST)
        high = tl.load(numbers + HIGHEST)
        tl.debug_barrier()
        now = before
        slopes = tl.zeros([CHUNK], tl.float64)
        for first_tensor in range(0, total, CHUNK):
            index = tl.arange(0, CHUNK)
            tensor = first_tensor + index
            mask = tensor < total
            row = tl.load(row_of + tensor, mask=mask, other=-1)
            part = mask & (row >= 0)
            at = row_sums + member * present + row
            entry = tensor * members + member
            gain = tl.full([CHUNK], 1.0, tl.float64)
            if gains is not None:
                gain = tl.load(gains + entry, mask=part, other=0.0).to(tl.float64)
            slope = -gain * tl.load(at, mask=part, other=0.0)
            if NORMALIZE:
                g_square = tl.load(at + members * present, mask=part, other=0.0)
                d_square = gain * gain * tl.load(at + 2 * members * present, mask=part, other=0.0)
                slope = _cosine(-slope, g_square, d_square, numbers)
            slope = tl.where(part, slope, 0.0).to(h.dtype.element_ty).to(tl.float64)
            slopes += slope
            given = slope
            if MULTIPLICATIVE and not NORMALIZE:
                given = slope * before
            first = _maybe(lop_first, entry, part)
            second = _maybe(lop_second, entry, part)
            count = _maybe(lop_count, entry, part)
            change, first, second, count = _lop(given, first, second, count, numbers, LOP)
            _keep(lop_first, entry, first, part)
            _keep(lop_second, entry, second, part)
            _keep(lop_count, entry, count, part)
            change = tl.where(part, rate * change, 0.0)
            if BOUNDED:
                alphas = tl.zeros([CHUNK], tl.float64)
                for place in range(CHUNK):
                    step = tl.sum(tl.where(index == place, change, 0.0), 0)
                    now = now * tl.exp(-step) if MULTIPLICATIVE else now - step
                    now = _at_most(_at_least(now, low), high)
                    alphas = tl.where(index == place, now, alphas)
            elif MULTIPLICATIVE:
                alphas = now * tl.exp(-tl.cumsum(change, 0))
                now = now * tl.exp(-tl.sum(change, 0))
            else:
                alphas = now - tl.cumsum(change, 0)
                now = now - tl.sum(change, 0)
            tl.store(moved + entry, alphas * factor, mask=part)
            tl.store(moved + 2 * total * members + entry, factor + 0.0 * alphas, mask=part)
            if REMEMBER:
                gain = factor / (1.0 - alphas * factor * decay)
                tl.store(gains + entry, tl.where(part, gain, 0.0), mask=mask)
                if decays is not None:
                    tl.store(decays + tensor, decay + 0.0 * alphas, mask=part & (0 * tensor + member == 0))
            if COUNTED:
                _count_steps(addresses, rows, row, part & (0 * tensor + member == 0))
        tl.store(alpha + member, now)
        tl.store(h + member, tl.sum(slopes, 0))
