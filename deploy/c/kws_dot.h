/* SPDX-License-Identifier: Apache-2.0 */
/* acc + sum a b of n int8 each: portable, Helium, or NEON with or without its dot product. The same sum in any order. */
#ifndef KWS_DOT_H
#define KWS_DOT_H

#include "kws_helium.h"

#if defined(__ARM_NEON) && defined(__aarch64__) && !defined(KWS_PORTABLE) && !defined(KWS_CHECKED)
#define KWS_DOT_NEON 1
#include <arm_neon.h>
#endif

static inline int32_t kws_dot(int32_t acc, const int8_t *a, const int8_t *b, int32_t n)
{
#if defined(KWS_HELIUM)
    for (; n > 0; n -= 16, a += 16, b += 16) {
        const mve_pred16_t inside = vctp8q((uint32_t)n);
        acc = vmladavaq_p_s8(acc, vldrbq_z_s8(a, inside), vldrbq_z_s8(b, inside), inside);
    }
    return acc;
#else
#if defined(KWS_DOT_NEON)
    int32x4_t sums = vdupq_n_s32(0);
    for (; n >= 16; n -= 16, a += 16, b += 16) {
        const int8x16_t x = vld1q_s8(a), y = vld1q_s8(b);
#if defined(__ARM_FEATURE_DOTPROD)
        sums = vdotq_s32(sums, x, y);
#else
        /* a product fits int16, two of them might not */
        sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(x), vget_low_s8(y)));
        sums = vpadalq_s16(sums, vmull_high_s8(x, y));
#endif
    }
    acc += vaddvq_s32(sums);
#endif
    for (; n > 0; n--)
        acc = kws_sum(acc, *a++ * *b++);
    return acc;
#endif
}

#endif
