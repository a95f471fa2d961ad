/* SPDX-License-Identifier: Apache-2.0 */
/* Integers only: multiply, shift and round as kws/arithmetic/fixedpoint.py and requantize.py do (A7 to A11). */
#ifndef KWS_ARITHMETIC_H
#define KWS_ARITHMETIC_H

#include "kws_nn.h"

#ifdef KWS_CHECKED
#include <assert.h>
#define KWS_ASSERT(condition) assert(condition)
#else
#define KWS_ASSERT(condition) ((void)0)
#endif

/* Shifts of negative numbers are the compiler's choice in C99; every compiler that is met shifts the sign in. */
typedef char kws_shift_is_arithmetic[((-3) >> 1) == -2 ? 1 : -1];

/* |acc| <= 2^31 - 1 is proved by Graph.check in any order of adding; KWS_CHECKED looks */
static inline int32_t kws_sum(int32_t acc, int32_t term)
{
    KWS_ASSERT((int64_t)acc + term <= INT32_MAX && (int64_t)acc + term >= -(int64_t)INT32_MAX);
    return acc + term;
}

static inline int32_t kws_clamp(int32_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* x / 2^shift to the nearest integer, ties away from zero; 0 <= shift <= 31 */
static inline int32_t kws_round_half_away_shift(int32_t x, int32_t shift)
{
    const int32_t mask = (int32_t)((UINT32_C(1) << shift) - 1);
    const int32_t half = (mask >> 1) + (x < 0);
    return (x >> shift) + ((x & mask) > half);
}

/* 2 x multiplier / 2^32, half up: x times a Q0.31 multiplier; not both -2^31 */
static inline int32_t kws_doubling_high_multiply(int32_t x, int32_t multiplier)
{
    return (int32_t)(((int64_t)x * multiplier + (INT64_C(1) << 30)) >> 31);
}

/* x multiplier 2^(shift - 31), rounded by the rule. |x 2^shift| < 2^31 for shift > 0 (Graph.check), so it fits. */
static inline int32_t kws_scale(int32_t x, int32_t multiplier, int32_t shift, int32_t rounding)
{
    if (rounding == KWS_SINGLE || shift >= 0) {
        const int32_t right = 31 - shift; /* 1..62, and |x multiplier| < 2^62 */
        return (int32_t)(((int64_t)x * multiplier + (INT64_C(1) << (right - 1))) >> right);
    }
    return kws_round_half_away_shift(kws_doubling_high_multiply(x, multiplier), -shift);
}

/* The int8 of a sum. Clamped before Z is added, which cannot overflow then. */
static inline int8_t kws_requantize(const kws_requant *requant, int32_t channel, int32_t acc)
{
    const int32_t i = requant->per_channel ? channel : 0;
    const int32_t z = requant->zero_point;
    const int32_t y = kws_scale(acc, requant->multiplier[i], requant->shift[i], requant->rounding);
    return (int8_t)(kws_clamp(y, requant->activation_min - z, requant->activation_max - z) + z);
}

/* acc / count to the nearest integer, ties away from zero */
static inline int32_t kws_divide(int32_t acc, int32_t count)
{
    return acc < 0 ? -((count / 2 - acc) / count) : (count / 2 + acc) / count;
}

/* The positions [first, last) of a kernel that lie inside the input, for an output that begins at `begin` */
static inline int32_t kws_first(int32_t begin)
{
    return begin < 0 ? -begin : 0;
}

static inline int32_t kws_last(int32_t begin, int32_t kernel, int32_t size)
{
    return begin + kernel > size ? size - begin : kernel;
}

#endif
