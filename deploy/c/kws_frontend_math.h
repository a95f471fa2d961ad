/* SPDX-License-Identifier: Apache-2.0 */
/* From mel sums to logarithms: features/fixed_math.py, log2_q16, and the end of features/fixed_frontend.py. */
#ifndef KWS_FRONTEND_MATH_H
#define KWS_FRONTEND_MATH_H

#include "kws_arithmetic.h"
#include "kws_frontend.h"

enum { KWS_LN2_Q31 = 1488522236 };

extern const uint16_t kws_log2_table_q16[129];

static inline int32_t kws_bit_length(uint64_t x)
{
#ifdef __GNUC__
    return x == 0 ? 0 : 64 - __builtin_clzll(x);
#else
    int32_t bits = 0;
    while (x != 0) {
        bits++;
        x >>= 1;
    }
    return bits;
#endif
}

/* log2 of 1 <= v < 2^63 */
static inline int32_t kws_log2_q16(uint64_t v)
{
    const int32_t exponent = kws_bit_length(v) - 1;
    const uint64_t normal = v << (62 - exponent);
    const uint32_t index = (uint32_t)(normal >> 55) & 127;
    const uint32_t fraction_q16 = (uint32_t)(normal >> 39) & 0xFFFF;
    const uint32_t low = kws_log2_table_q16[index];
    const uint32_t step = (uint16_t)(kws_log2_table_q16[index + 1] - low);
    return (int32_t)(((uint32_t)exponent << 16) + low + ((step * fraction_q16 + 0x8000) >> 16));
}

/* Of a spectrum shifted left by `t`: mel = sum * 2^-exponent */
static inline int32_t kws_mel_exponent(const kws_frontend *frontend, int32_t t)
{
    return frontend->power == 2 ? 62 - 3 * frontend->log2_n_fft + 2 * t : 46 - frontend->log2_n_fft + t;
}

/* log_floor, times the peak to the power, in the units of the mel sums of a spectrum shifted by `t`; below 2^61 */
static inline uint64_t kws_mel_floor(const kws_frontend *frontend, int32_t t, int32_t peak)
{
    const int32_t right = frontend->floor_exponent + 15 * frontend->power - kws_mel_exponent(frontend, t);
    const uint64_t scaled = (uint64_t)(uint32_t)frontend->floor_multiplier * (uint64_t)(uint32_t)peak
                            * (frontend->power == 2 ? (uint64_t)(uint32_t)peak : 1);
    if (right > 62)
        return 0; /* it is below 2^61 */
    return right == 0 ? scaled : (scaled + (UINT64_C(1) << (right - 1))) >> right;
}

/* The logarithm of a mel sum, which with the floor is below 2^63, of a spectrum shifted by `t`; `peak_log2_q16` is power * log2(peak) */
static inline int32_t kws_log_mel_q16(const kws_frontend *frontend, uint64_t mel, uint64_t floor, int32_t t,
                             int32_t peak_log2_q16)
{
    const uint64_t sum = mel + floor;
    const int32_t log2_q16 = kws_log2_q16(sum == 0 ? 1 : sum) - kws_mel_exponent(frontend, t) * 65536
                             - peak_log2_q16;
    return kws_doubling_high_multiply(log2_q16, KWS_LN2_Q31) + frontend->log_offset_q16;
}

#endif
