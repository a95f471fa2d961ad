/* SPDX-License-Identifier: Apache-2.0 */
/* Helium (Cortex-M55, M85): four sums at once, and the same bits as without it. KWS_PORTABLE and KWS_CHECKED leave it
 * out. */
#ifndef KWS_HELIUM_H
#define KWS_HELIUM_H

#include "kws_arithmetic.h"

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1) && !defined(KWS_PORTABLE) && !defined(KWS_CHECKED)
#define KWS_HELIUM

#include <arm_mve.h>

/* How all channels of an op are requantized. HIGH: under single rounding, with right = 33 and above, (acc multiplier +
 * 2^(right - 1)) / 2^right is the high word of acc multiplier, divided by 2^(right - 32) half up. DOUBLING: under tflm,
 * with right shifts only. ANY: everything else, one after the other. */
typedef enum { KWS_ANY, KWS_HIGH, KWS_DOUBLING } kws_way;

static inline kws_way kws_way_of(const kws_requant *requant, int32_t channels)
{
    const int32_t n = requant->per_channel ? channels : 1, most = requant->rounding == KWS_SINGLE ? -2 : 0;
    int32_t i;
    for (i = 0; i < n; i++)
        if (requant->shift[i] > most)
            return KWS_ANY;
    return requant->rounding == KWS_SINGLE ? KWS_HIGH : KWS_DOUBLING;
}

/* Four sums scaled, before Z; not for KWS_ANY */
static inline int32x4_t kws_scale4(int32x4_t acc, int32x4_t multiplier, int32x4_t shift, kws_way way)
{
    int32x4_t y, below;
    if (way == KWS_HIGH)
        return vrshlq_s32(vmulhq_s32(acc, multiplier), vaddq_n_s32(shift, 1));
    y = vqrdmulhq_s32(acc, multiplier);
    below = vshrq_n_s32(vandq_s32(y, shift), 31); /* -1 for a negative value that is shifted: its ties go down */
    return vrshlq_s32(vaddq_s32(y, below), shift);
}

#endif

#endif
