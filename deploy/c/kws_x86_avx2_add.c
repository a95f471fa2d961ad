/* SPDX-License-Identifier: Apache-2.0 */
/* Add: what `kws_scale` does, on 8 values of one multiplier. A shift of 64 bits with the sign is a logical one of
 * x + 2^63, less `offset`. */
#include "kws_x86_avx2.h"

#ifdef KWS_X86
#include <string.h>

enum { LANES = 8 };

typedef struct {
    __m256i multiplier, round, offset, half, sign, offset2;
    __m128i right, right2;
} scale_all;

INLINE scale_all scale_all_of(int32_t multiplier, int32_t shift, int32_t rounding)
{
    const int32_t second = rounding == KWS_TFLM && shift < 0 ? -shift : 0;
    const int32_t right = 31 - shift - second;
    scale_all s;
    s.multiplier = _mm256_set1_epi64x(multiplier);
    s.round = _mm256_set1_epi64x(1LL << (right - 1));
    s.right = _mm_cvtsi32_si128(right);
    s.offset = _mm256_set1_epi64x((int64_t)(UINT64_C(1) << (63 - right)));
    s.half = _mm256_set1_epi64x(second ? 1LL << (second - 1) : 0);
    s.sign = _mm256_set1_epi64x(second ? -1 : 0);
    s.right2 = _mm_cvtsi32_si128(second);
    s.offset2 = _mm256_set1_epi64x((int64_t)(UINT64_C(1) << (63 - second)));
    return s;
}

INLINE __m256i scale_half(__m256i x, const scale_all *s, int twice)
{
    const __m256i flip = _mm256_set1_epi64x(INT64_MIN);
    __m256i y = _mm256_add_epi64(_mm256_mul_epi32(x, s->multiplier), s->round);
    y = _mm256_sub_epi64(_mm256_srl_epi64(_mm256_xor_si256(y, flip), s->right), s->offset);
    if (twice) {
        const __m256i sign = _mm256_and_si256(_mm256_cmpgt_epi64(_mm256_setzero_si256(), y), s->sign);
        y = _mm256_add_epi64(_mm256_add_epi64(y, s->half), sign);
        y = _mm256_sub_epi64(_mm256_srl_epi64(_mm256_xor_si256(y, flip), s->right2), s->offset2);
    }
    return y;
}

INLINE __m256i scale8(__m256i x, const scale_all *s, int twice)
{
    const __m256i odd = scale_half(_mm256_srli_epi64(x, 32), s, twice);
    return _mm256_blend_epi32(scale_half(x, s, twice), _mm256_slli_epi64(odd, 32), 0xAA);
}

/* (q - Z) << 20 of 8 values, scaled */
INLINE __m256i common8(const int8_t *from, int32_t zero_point, const scale_all *s, int twice)
{
    const __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)from));
    return scale8(_mm256_slli_epi32(_mm256_sub_epi32(q, _mm256_set1_epi32(zero_point)), 20), s, twice);
}

INLINE void add_all(const kws_add_op *op, const int8_t *input, const int8_t *input2, int8_t *output, int twice)
{
    const kws_requant *requant = &op->requant;
    const scale_all a = scale_all_of(op->multiplier, op->shift, requant->rounding);
    const scale_all b = scale_all_of(op->multiplier2, op->shift2, requant->rounding);
    const scale_all c = scale_all_of(requant->multiplier[0], requant->shift[0], requant->rounding);
    const __m256i zero = _mm256_set1_epi32(requant->zero_point);
    const __m256i low = _mm256_set1_epi32(requant->activation_min - requant->zero_point);
    const __m256i high = _mm256_set1_epi32(requant->activation_max - requant->zero_point);
    int8_t rest[2][LANES];
    int32_t i;
    for (i = 0; i < op->size; i += LANES) {
        const int32_t left = op->size - i;
        const int8_t *from = input + i, *from2 = input2 + i;
        __m256i y;
        __m128i wide;
        if (left < LANES) {
            memset(rest, 0, sizeof rest);
            from = memcpy(rest[0], from, (size_t)left);
            from2 = memcpy(rest[1], from2, (size_t)left);
        }
        y = _mm256_add_epi32(common8(from, op->input_zero_point, &a, twice),
                             common8(from2, op->input2_zero_point, &b, twice));
        y = _mm256_add_epi32(_mm256_min_epi32(_mm256_max_epi32(scale8(y, &c, twice), low), high), zero);
        wide = _mm_packs_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
        wide = _mm_packs_epi16(wide, wide);
        if (left < LANES) {
            _mm_storel_epi64((__m128i *)(void *)rest[0], wide);
            memcpy(output + i, rest[0], (size_t)left);
        } else {
            _mm_storel_epi64((__m128i *)(void *)(output + i), wide);
        }
    }
}

TARGET void kws_avx2_add(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_add_op *op = (const kws_add_op *)op_;
    (void)scratch;
    if (op->requant.rounding == KWS_TFLM)
        add_all(op, input, input2, output, 1);
    else
        add_all(op, input, input2, output, 0);
}

#else
typedef int kws_no_avx2_add;
#endif
