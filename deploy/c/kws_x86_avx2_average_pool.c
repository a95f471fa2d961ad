/* SPDX-License-Identifier: Apache-2.0 */
/* Average pool of at most 255 positions, whose sums fit int16: 16 channels at a time */
#include "kws_x86_avx2.h"

#ifdef KWS_X86

/* `kws_divide` of eight sums of `count` int8, count <= 255, `multiplier` being 2^23 / count rounded up: the dividend n is
 * below 2^15, so n (multiplier - 2^23 / count) < 2^23, which leaves the quotient as it is, and n multiplier < 2^31. */
INLINE __m256i divide8(__m256i sums, int32_t count, int32_t multiplier)
{
    const __m256i n = _mm256_add_epi32(_mm256_abs_epi32(sums), _mm256_set1_epi32(count / 2));
    const __m256i quotient = _mm256_srli_epi32(_mm256_mullo_epi32(n, _mm256_set1_epi32(multiplier)), 23);
    return _mm256_sign_epi32(quotient, sums);
}

size_t kws_avx2_average_pool_suits(const void *op_)
{
    const kws_window *w = &((const kws_pool *)op_)->window;
    return w->kernel_h * w->kernel_w <= 255 && w->in_c >= 16;
}

TARGET void kws_avx2_average_pool(
    const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_pool *op = (const kws_pool *)op_;
    const kws_window *w = &op->window;
    const int32_t row = w->in_w * w->in_c;
    const __m128i low = _mm_set1_epi8((char)op->activation_min), high = _mm_set1_epi8((char)op->activation_max);
    int32_t y, x, c, i, j;
    (void)input2;
    (void)scratch;
    for (y = 0; y < w->out_h; y++) {
        for (x = 0; x < w->out_w; x++, output += w->in_c) {
            const int32_t top = y * w->stride_h - w->pad_top, left = x * w->stride_w - w->pad_left;
            const int32_t i_first = kws_first(top), i_last = kws_last(top, w->kernel_h, w->in_h);
            const int32_t j_first = kws_first(left), j_last = kws_last(left, w->kernel_w, w->in_w);
            const int32_t count = (i_last - i_first) * (j_last - j_first);
            const int32_t multiplier = ((1 << 23) + count - 1) / count;
            for (c = 0; c < w->in_c; c += 16) {
                /* the last block may begin before the end of the one before it, and computes the same there */
                const int32_t first = c + 16 <= w->in_c ? c : w->in_c - 16;
                const int8_t *from = input + (top + i_first) * row + (left + j_first) * w->in_c + first;
                __m256i acc = _mm256_setzero_si256();
                __m256i first8, last8;
                __m128i mean;
                for (i = i_first; i < i_last; i++, from += row)
                    for (j = 0; j < j_last - j_first; j++) {
                        const __m128i q = _mm_loadu_si128((const __m128i *)(const void *)(from + j * w->in_c));
                        acc = _mm256_add_epi16(acc, _mm256_cvtepi8_epi16(q));
                    }
                first8 = divide8(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(acc)), count, multiplier);
                last8 = divide8(_mm256_cvtepi16_epi32(_mm256_extracti128_si256(acc, 1)), count, multiplier);
                acc = _mm256_permute4x64_epi64(_mm256_packs_epi32(first8, last8), 0xD8);
                mean = _mm_packs_epi16(_mm256_castsi256_si128(acc), _mm256_extracti128_si256(acc, 1));
                mean = _mm_min_epi8(_mm_max_epi8(mean, low), high);
                _mm_storeu_si128((__m128i *)(void *)(output + first), mean);
            }
        }
    }
}

#else
typedef int kws_no_avx2_average_pool;
#endif
