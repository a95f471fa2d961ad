/* SPDX-License-Identifier: Apache-2.0 */
/* Add: what `kws_scale` does, on 16 values of one multiplier */
#include "kws_x86_avx512.h"

#ifdef KWS_X86

typedef struct {
    __m512i multiplier, round, half, sign;
    __m128i right, right2;
} scale_all;

INLINE scale_all scale_all_of(int32_t multiplier, int32_t shift, int32_t rounding)
{
    const int32_t second = rounding == KWS_TFLM && shift < 0 ? -shift : 0;
    const int32_t right = 31 - shift - second;
    scale_all s;
    s.multiplier = _mm512_set1_epi64(multiplier);
    s.round = _mm512_set1_epi64(1LL << (right - 1));
    s.right = _mm_cvtsi32_si128(right);
    s.half = _mm512_set1_epi64(second ? 1LL << (second - 1) : 0);
    s.sign = _mm512_set1_epi64(second ? -1 : 0);
    s.right2 = _mm_cvtsi32_si128(second);
    return s;
}

INLINE __m512i scale_half(__m512i x, const scale_all *s)
{
    __m512i y = _mm512_add_epi64(_mm512_mul_epi32(x, s->multiplier), s->round);
    y = _mm512_sra_epi64(y, s->right);
    y = _mm512_add_epi64(_mm512_add_epi64(y, s->half), _mm512_and_si512(_mm512_srai_epi64(y, 63), s->sign));
    return _mm512_sra_epi64(y, s->right2);
}

INLINE __m512i scale16(__m512i x, const scale_all *s)
{
    const __m512i even = scale_half(x, s), odd = scale_half(_mm512_srli_epi64(x, 32), s);
    return _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
}

INLINE __m512i common16(const int8_t *from, __mmask16 mask, __m512i zero, const scale_all *s)
{
    const __m512i q = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, from));
    return scale16(_mm512_slli_epi32(_mm512_sub_epi32(q, zero), 20), s);
}

TARGET void kws_avx512_add(
    const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_add_op *op = (const kws_add_op *)op_;
    const kws_requant *requant = &op->requant;
    const scale_all a = scale_all_of(op->multiplier, op->shift, requant->rounding);
    const scale_all b = scale_all_of(op->multiplier2, op->shift2, requant->rounding);
    const scale_all c = scale_all_of(requant->multiplier[0], requant->shift[0], requant->rounding);
    const __m512i zero_a = _mm512_set1_epi32(op->input_zero_point), zero_b = _mm512_set1_epi32(op->input2_zero_point);
    const __m512i zero = _mm512_set1_epi32(requant->zero_point);
    const __m512i low = _mm512_set1_epi32(requant->activation_min - requant->zero_point);
    const __m512i high = _mm512_set1_epi32(requant->activation_max - requant->zero_point);
    int32_t i;
    (void)scratch;
    for (i = 0; i < op->size; i += 16) {
        const __mmask16 mask = (__mmask16)(op->size - i >= 16 ? 0xFFFF : (1 << (op->size - i)) - 1);
        __m512i y = _mm512_add_epi32(common16(input + i, mask, zero_a, &a), common16(input2 + i, mask, zero_b, &b));
        y = _mm512_min_epi32(_mm512_max_epi32(scale16(y, &c), low), high);
        _mm_mask_storeu_epi8(output + i, mask, _mm512_cvtepi32_epi8(_mm512_add_epi32(y, zero)));
    }
}

#else
typedef int kws_no_avx512_add;
#endif
