/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512 with VNNI: four products of a uint8 and an int8 a lane and instruction.
 *
 * Inputs are taken as u = x + 128 (the sign bit flipped), copied once with their padding. The bias absorbs the 128:
 * sum x (w - Zw) = sum u w - 128 sum w - Zw sum u + 128 K Zw. Sums wrap modulo 2^32, and their true value fits, so the
 * order does not matter. The bits are those of the portable kernels.
 */
#ifndef KWS_X86_AVX512_H
#define KWS_X86_AVX512_H

#include "kws_x86.h"

#ifdef KWS_X86
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { ROWS = 6, LANES = 16, VECTORS = 4, BLOCK = LANES * VECTORS };

/* Multiply, round, shift for 16 channels, in 64 bits: [0] of the even lanes, [1] of the odd ones. Where the rule is
 * `single` and every right shift 33 to 52, M < 1/4, the upper halves of the products are enough: what is added to round
 * has no bit below 2^32, and a shift by `right` is one by 32 and one by the rest. Z is added with it, before the shift:
 * the product's upper half is at most 2^30 in size, Z then at most 2^27, so no sum overflows. */
typedef struct {
    int32_t high_round[16];
    int32_t high_right[16];
    int64_t multiplier[2][8];
    int64_t round[2][8];
    int64_t right[2][8];
    int64_t half[2][8]; /* of the second rounding, and all below: tflm only */
    int64_t sign[2][8]; /* -1 where the second shift is not 0 */
    int64_t right2[2][8];
} requant16;

enum { HIGH = 0, SINGLE = 1, TFLM = 2 }; /* how `requantize16` goes: HIGH for what is said above */

static inline int fits_high(int32_t right)
{
    return right >= 33 && right <= 52;
}

static inline int way_of(const kws_affine *op)
{
    const kws_requant *requant = &op->requant;
    int32_t c;
    if (requant->rounding == KWS_TFLM)
        return TFLM;
    for (c = 0; c < (requant->per_channel ? op->window.out_c : 1); c++)
        if (requant->multiplier[c] != 0 && !fits_high(31 - requant->shift[c]))
            return SINGLE;
    return HIGH;
}

static inline int32_t blocks_of(int32_t channels)
{
    return (channels + BLOCK - 1) / BLOCK;
}

static inline void pack_requant(requant16 *to, int32_t lane, const kws_requant *requant, int32_t channel)
{
    const int32_t i = requant->per_channel ? channel : 0;
    const int32_t shift = requant->shift[i], odd = lane % 2, at = lane / 2;
    const int32_t second = requant->rounding == KWS_TFLM && shift < 0 ? -shift : 0;
    const int32_t right = 31 - shift - second;
    to->multiplier[odd][at] = requant->multiplier[i];
    to->right[odd][at] = right;
    to->round[odd][at] = INT64_C(1) << (right - 1);
    to->right2[odd][at] = second;
    if (fits_high(right)) {
        to->high_right[lane] = right - 32;
        to->high_round[lane] = (INT32_C(1) << (right - 33)) + requant->zero_point * (INT32_C(1) << (right - 32));
    } else { /* M = 0, where the way is HIGH */
        to->high_round[lane] = requant->zero_point;
    }
    to->half[odd][at] = second ? INT64_C(1) << (second - 1) : 0;
    to->sign[odd][at] = second ? -1 : 0;
}

/* x M, rounded, in the low halves of 64 bits: of the even lanes of `acc` or, moved down, of the odd ones */
INLINE __m512i scale8(__m512i acc, const requant16 *r, int odd, int way)
{
    const __m512i x = odd ? _mm512_srli_epi64(acc, 32) : acc; /* vpmuldq reads the low halves, with their sign */
    __m512i y = _mm512_mul_epi32(x, _mm512_load_si512(r->multiplier[odd]));
    y = _mm512_add_epi64(y, _mm512_load_si512(r->round[odd]));
    y = _mm512_srav_epi64(y, _mm512_load_si512(r->right[odd]));
    if (way == TFLM) {
        const __m512i sign = _mm512_and_si512(_mm512_srai_epi64(y, 63), _mm512_load_si512(r->sign[odd]));
        y = _mm512_add_epi64(_mm512_add_epi64(y, _mm512_load_si512(r->half[odd])), sign);
        y = _mm512_srav_epi64(y, _mm512_load_si512(r->right2[odd]));
    }
    return y;
}

/* int32 sums of 16 channels -> int32 values, with Z (HIGH) or before it. Where both halves of the lanes are needed, they
 * are saturated to int16 on the way: (value, sign) saturated to (int16, sign) is an int32 again, and lanes 1 and 2 of
 * four change places. */
INLINE __m512i requantize16(__m512i acc, const requant16 *r, int way)
{
    if (way == HIGH) {
        const __m512i even = _mm512_mul_epi32(acc, _mm512_load_si512(r->multiplier[0]));
        const __m512i odd = _mm512_mul_epi32(_mm512_srli_epi64(acc, 32), _mm512_load_si512(r->multiplier[1]));
        const __m512i high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
        const __m512i rounded = _mm512_add_epi32(high, _mm512_load_si512(r->high_round));
        return _mm512_srav_epi32(rounded, _mm512_load_si512(r->high_right));
    }
    return _mm512_packs_epi32(scale8(acc, r, 0, way), scale8(acc, r, 1, way));
}

/* What `requantize16` made of 64 channels -> int8 */
INLINE __m512i narrow(__m512i a, __m512i b, __m512i c, __m512i d, __m512i zero, __m512i low, __m512i high, int way)
{
    __m512i ab = _mm512_packs_epi32(a, b), cd = _mm512_packs_epi32(c, d);
    if (way != HIGH) {
        ab = _mm512_adds_epi16(ab, zero);
        cd = _mm512_adds_epi16(cd, zero);
    }
    return _mm512_min_epi8(_mm512_max_epi8(_mm512_packs_epi16(ab, cd), low), high);
}

/* u = x + 128 with the border of Zx, and bytes behind it that a last group may read */
static inline TARGET void copy_padded(const kws_affine *op, kws_padded padded, const int8_t *input, uint8_t *to)
{
    const kws_window *w = &op->window;
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    const int32_t border = op->input_zero_point + 128;
    const int32_t used_h = padded.h - w->pad_top < w->in_h ? padded.h - w->pad_top : w->in_h;
    const int32_t used_w = padded.w - w->pad_left < w->in_w ? padded.w - w->pad_left : w->in_w;
    const int32_t whole = padded.w == w->in_w && w->pad_left == 0;
    const int32_t rows = whole ? 1 : used_h;
    const size_t size = (size_t)(whole ? used_h * used_w * w->in_c : used_w * w->in_c);
    const size_t row = (size_t)(padded.w * w->in_c);
    int32_t y;
    if (padded.h != w->in_h || padded.w != w->in_w)
        memset(to, border, (size_t)padded.h * row);
    to += (size_t)w->pad_top * row + (size_t)(w->pad_left * w->in_c);
    for (y = 0; y < rows; y++) {
        size_t i;
        for (i = 0; i + 64 <= size; i += 64)
            _mm512_storeu_si512(to + i, _mm512_xor_si512(_mm512_loadu_si512(input + i), flip));
        if (i < size) {
            const __mmask64 mask = (UINT64_C(1) << (size - i)) - 1;
            _mm512_mask_storeu_epi8(to + i, mask, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, input + i), flip));
        }
        to += row;
        input += w->in_w * w->in_c;
    }
}

/* The constants of a conv2d, laid out anew */
typedef struct {
    kws_padded padded;
    int32_t way;
    int32_t groups;         /* of four inputs that one output sees */
    const int32_t *offsets; /* (groups) from the first input that an output sees */
    const int32_t *ones;    /* (groups) four bytes: 1 for an input, 0 for what a group reads beyond its segment */
    const int8_t *weights;  /* a block of 64 channels after another: (groups, vectors, 16, 4) */
    const int32_t *bias;    /* (blocks, vectors, 16) */
    const requant16 *requant; /* (blocks, vectors) */
} packed_conv2d;

static inline int32_t vectors_of(int32_t channels, int32_t block)
{
    const int32_t left = channels - block * BLOCK;
    return left >= BLOCK ? VECTORS : (left + LANES - 1) / LANES;
}

/* By the number of vectors of an output, how `narrow` is brought in order; [0]: of four outputs of one vector */
extern const int32_t kws_avx512_compact[VECTORS + 1][LANES];

size_t kws_avx512_padded_size(const void *op); /* bytes of scratch memory that `copy_padded` fills, and behind */

/* A kernel a file, each as a kws_fast_path wants it */
kws_kernel kws_avx512_add;
kws_kernel kws_avx512_conv2d;
size_t kws_avx512_conv2d_packed_size(const void *op);
void kws_avx512_conv2d_pack(void *op, void *packed);
kws_kernel kws_avx512_depthwise_conv2d;
size_t kws_avx512_depthwise_packed_size(const void *op);
void kws_avx512_depthwise_pack(void *op, void *packed);

#endif

#endif
