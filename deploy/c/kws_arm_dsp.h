/* SPDX-License-Identifier: Apache-2.0 */
/* Arm's DSP instructions (Cortex-M4, M7, M33, M55): two int16 products at once, and the same bits as without them.
 * KWS_PORTABLE leaves them out; so do KWS_CHECKED, a build without optimization, which has no register to spare, and the
 * old Arm encoding, whose ldrd takes fewer pairs of registers.
 */
#ifndef KWS_ARM_DSP_H
#define KWS_ARM_DSP_H

#include "kws_arithmetic.h"

#if defined(__ARM_FEATURE_DSP) && defined(__thumb2__) && defined(__OPTIMIZE__) && !defined(__ARM_BIG_ENDIAN) \
    && !defined(KWS_PORTABLE) && !defined(KWS_CHECKED)
#define KWS_ARM_DSP

#include <arm_acle.h>
#include <string.h>

/* Four int8 in a word, at any address */
static inline int32_t kws_load4(const int8_t *from)
{
    int32_t word;
    memcpy(&word, from, 4);
    return word;
}

/* Of four int8: values 0 and 2 as a pair of int16, and 1 and 3. GCC does not join the rotation to the intrinsic. */
static inline int32_t kws_even(int32_t word)
{
    return __sxtb16(word);
}

static inline int32_t kws_odd(int32_t word)
{
    int32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    return pair;
}

/* The same, added to a pair */
static inline int32_t kws_add_even(int32_t pair, int32_t word)
{
    return __sxtab16(pair, word);
}

static inline int32_t kws_add_odd(int32_t pair, int32_t word)
{
    int32_t sum;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(sum) : "r"(pair), "r"(word));
    return sum;
}

/* How all channels of an op are requantized. Fast is where every M = M0 / 2^(n + 31) has n >= 2; M0 >= 2^30 then. */
typedef enum { KWS_FAST_SINGLE, KWS_FAST_TFLM, KWS_ONE_BY_ONE } kws_fast;

static inline kws_fast kws_fast_of(const kws_requant *requant, int32_t channels)
{
    const int32_t n = requant->per_channel ? channels : 1;
    int32_t i;
    for (i = 0; i < n; i++)
        if (requant->shift[i] > -2)
            return KWS_ONE_BY_ONE;
    return requant->rounding == KWS_SINGLE ? KWS_FAST_SINGLE : KWS_FAST_TFLM;
}

/* What the fast ways make of a channel's multiplier and shift. Of `right` a shift reads the lowest byte alone. */
typedef struct {
    int32_t multiplier, right;
} kws_fast_scale;

static inline kws_fast_scale kws_fast_scale_of(int32_t multiplier, int32_t shift, kws_fast way)
{
    const int32_t tflm = way == KWS_FAST_TFLM;
    kws_fast_scale scale;
    scale.multiplier = (int32_t)((uint32_t)multiplier << tflm);
    scale.right = 254 + tflm - shift;
    return scale;
}

/* Saturated to int8, not yet clamped; `odd` is 2 Z + 1. (acc M0 + 2^(n + 30)) / 2^(n + 31) + Z, rounded down, is
 * (high word of acc M0 / 2^(n - 2) + odd) / 2. */
static inline int8_t kws_fast_single(int32_t acc, kws_fast_scale scale, int32_t odd)
{
    int32_t y;
    __asm__("smmul %0, %1, %2\n\tasr %0, %0, %3\n\tadd %0, %0, %4\n\tssat %0, #8, %0, asr #1"
            : "=&r"(y)
            : "r"(acc), "r"(scale.multiplier), "r"(scale.right), "r"(odd));
    return (int8_t)y;
}

/* The same under tflm. smmlar gives the high word of 2 acc M0 + 2^31, which is the doubling high multiply, for any acc:
 * read as int32, 2 M0 is 2^32 too small, and acc is added for that. Where the word is negative 1 is taken off, so that
 * its ties go down; then as above: (it / 2^(n - 1) + odd) / 2. */
static inline int8_t kws_fast_tflm(int32_t acc, kws_fast_scale scale, int32_t odd)
{
    int32_t y;
    __asm__("smmlar %0, %1, %2, %1\n\tadd %0, %0, %0, asr #31\n\tasr %0, %0, %3\n\t"
            "add %0, %0, %4\n\tssat %0, #8, %0, asr #1"
            : "=&r"(y)
            : "r"(acc), "r"(scale.multiplier), "r"(scale.right), "r"(odd));
    return (int8_t)y;
}

/* The same as kws_requantize, once in the program: for what is not requantized fast */
static __attribute__((noinline, unused)) int8_t kws_any_requantize(
    const kws_requant *requant, int32_t channel, int32_t acc)
{
    return kws_requantize(requant, channel, acc);
}

/* What the fast ways left to do; clamping what was saturated is clamping what was not. */
static inline void kws_clamp_all(const kws_requant *requant, int8_t *values, int32_t n)
{
    int32_t i;
    if (requant->activation_min > INT8_MIN || requant->activation_max < INT8_MAX)
        for (i = 0; i < n; i++)
            values[i] = (int8_t)kws_clamp(values[i], requant->activation_min, requant->activation_max);
}

#endif

#endif
