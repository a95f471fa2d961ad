/* SPDX-License-Identifier: Apache-2.0 */
/* AVX2: eight frames side by side. */
#include "kws_frontend_math.h"
#include "kws_x86.h"

#ifdef KWS_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))
#define LANES 8
#define vec __m256i
#define LOAD(p) _mm256_load_si256((const __m256i *)(const void *)(p))
#define STORE(p, v) _mm256_store_si256((__m256i *)(void *)(p), v)
#define ADD _mm256_add_epi32
#define SUB _mm256_sub_epi32
#define SHIFT_LEFT _mm256_sllv_epi32
#define SHIFT_RIGHT(v, n) _mm256_srai_epi32(v, n)
#define OR _mm256_or_si256
#define AND _mm256_and_si256
#define ABS _mm256_abs_epi32
#define SET32 _mm256_set1_epi32
#define SET64 _mm256_set1_epi64x
#define ADD64 _mm256_add_epi64
#define SUB64 _mm256_sub_epi64
#define HIGH(v) _mm256_srli_epi64(v, 32)
#define LOW(v) _mm256_slli_epi64(v, 32)
#define SHIFT_RIGHT64(v, n) _mm256_srl_epi64(v, n)
#define PRODUCT _mm256_mul_epi32
#define PRODUCT_UNSIGNED _mm256_mul_epu32
#define ODD_LANES(even, odd) _mm256_blend_epi32(even, odd, 0xAA)
#define MADD _mm256_madd_epi16
#define GATHER(base, index) _mm256_i32gather_epi32((const int *)(const void *)(base), index, 2)

#define INLINE static inline __attribute__((always_inline)) TARGET
#define HALF(v) SHIFT_RIGHT(ADD(v, SET32(1)), 1)
#define QUARTER(v) SHIFT_RIGHT(ADD(v, SET32(2)), 2)
#define OR_ABS(bits, v) OR(bits, ABS(v))

/* Each product is rounded in 64 bits, in two vectors for even and odd lanes. Adding such vectors in 32 bits adds the
 * upper halves, which are wanted, without a carry from the lower ones. */
INLINE void complex_multiply(vec *out_r, vec *out_i, vec xr, vec xi, const int32_t *w)
{
    const vec wr = SET32(w[0]), wi = SET32(w[1]), round = SET64(1LL << 31);
    const vec xr_odd = HIGH(xr), xi_odd = HIGH(xi);
    const vec even_r = ADD(ADD64(PRODUCT(xr, wr), round), SUB64(round, PRODUCT(xi, wi)));
    const vec odd_r = ADD(ADD64(PRODUCT(xr_odd, wr), round), SUB64(round, PRODUCT(xi_odd, wi)));
    const vec even_i = ADD(ADD64(PRODUCT(xr, wi), round), ADD64(PRODUCT(xi, wr), round));
    const vec odd_i = ADD(ADD64(PRODUCT(xr_odd, wi), round), ADD64(PRODUCT(xi_odd, wr), round));
    *out_r = ODD_LANES(HIGH(even_r), odd_r);
    *out_i = ODD_LANES(HIGH(even_i), odd_i);
}

#define COMPLEX_MULTIPLY(out_r, out_i, xr, xi, w) complex_multiply(&(out_r), &(out_i), xr, xi, w)
#include "kws_frontend_kernel.h"

/* The left shift by which the largest sample fills 16 bits, at most t_max */
INLINE int32_t headroom(const kws_frontend *frontend, const int16_t *samples)
{
    const int32_t length = frontend->frame_length;
    __m256i any = _mm256_setzero_si256();
    int32_t bits = 0;
    uint16_t parts[16];
    int32_t i, left;
    for (i = 0; i + 16 <= length; i += 16) {
        const __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(samples + i));
        any = _mm256_or_si256(any, _mm256_xor_si256(x, _mm256_srai_epi16(x, 15)));
    }
    _mm256_storeu_si256((__m256i *)(void *)parts, any);
    for (; i < length; i++)
        bits |= samples[i] ^ (samples[i] >> 15);
    for (i = 0; i < 16; i++)
        bits |= parts[i];
    left = 15 - kws_bit_length((uint32_t)bits);
    return left > frontend->t_max ? frontend->t_max : left;
}

/* rows[lane] holds eight values of one frame -> rows[k] holds value k of eight frames */
INLINE void transpose(vec *rows)
{
    vec twos[LANES], fours[LANES];
    int32_t i;
    for (i = 0; i < LANES; i += 2) {
        twos[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        twos[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (i = 0; i < LANES; i += 4) {
        fours[i] = _mm256_unpacklo_epi64(twos[i], twos[i + 2]);
        fours[i + 1] = _mm256_unpackhi_epi64(twos[i], twos[i + 2]);
        fours[i + 2] = _mm256_unpacklo_epi64(twos[i + 1], twos[i + 3]);
        fours[i + 3] = _mm256_unpackhi_epi64(twos[i + 1], twos[i + 3]);
    }
    for (i = 0; i < 4; i++) {
        rows[i] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20);
        rows[i + 4] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
    }
}

/* Two samples of each frame, times their window values, shifted left by `before`, as complex value `to` */
INLINE void store_pair(vec pair, const int16_t *window, vec before, int32_t *work, int32_t to)
{
    STORE(RE(to), SHIFT_LEFT(MADD(pair, SET32(window[0])), before));
    STORE(IM(to), SHIFT_LEFT(MADD(pair, SET32(window[1] * 65536)), before));
}

/* Eight pairs of samples of each frame at once, times their window values, into `work` in bit-reversed order */
INLINE void load(const kws_frontend *frontend, const int16_t *samples, const int32_t *starts, vec before,
                 int32_t *work)
{
    const int16_t *window = frontend->window_q15;
    const int32_t n = frontend->n_fft / 2, pairs = frontend->frame_length / 2;
    const vec zero = SET32(0);
    vec rows[LANES];
    int32_t i, k, lane, to = 0;
    for (i = 0; i + LANES <= pairs; i += LANES) {
        for (lane = 0; lane < LANES; lane++)
            rows[lane] = _mm256_loadu_si256((const __m256i *)(const void *)(samples + starts[lane] + 2 * i));
        transpose(rows);
        for (k = 0; k < LANES; k++) {
            store_pair(rows[k], window + 2 * (i + k), before, work, to);
            to = next_reversed(to, n);
        }
    }
    for (; i < pairs; i++) {
        store_pair(GATHER(samples, ADD(LOAD(starts), SET32(2 * i))), window + 2 * i, before, work, to);
        to = next_reversed(to, n);
    }
    for (; i < n; i++) {
        STORE(RE(to), zero);
        STORE(IM(to), zero);
        if (2 * i < frontend->frame_length) {
            for (lane = 0; lane < LANES; lane++)
                RE(to)[lane] = samples[starts[lane] + 2 * i] * window[2 * i];
            STORE(RE(to), SHIFT_LEFT(LOAD(RE(to)), before));
        }
        to = next_reversed(to, n);
    }
}

/* Where the upper `step` bits of `high` are 0: `high` and `low`, 64 bits, to the left by so many */
INLINE void leading_to_top(vec *high, vec *low, vec *bits, int32_t step)
{
    const vec left = AND(_mm256_cmpeq_epi32(_mm256_srli_epi32(*high, 32 - step), SET32(0)), SET32(step));
    *high = OR(SHIFT_LEFT(*high, left), _mm256_srlv_epi32(*low, SUB(SET32(32), left)));
    *low = SHIFT_LEFT(*low, left);
    *bits = SUB(*bits, left);
}

/* `kws_log_mel_q16` of eight frames, of their sums with the floor: those of even lanes, those of odd ones. `exponent` is
 * that of the mel sums, times 2^16. */
INLINE vec log_q16(vec even, vec odd, vec exponent, vec offset)
{
    const vec zero = SET32(0), low16 = SET32(0xFFFF), round = SET64(1LL << 30);
    vec high, low, small, bits, entry, log2, product_even, product_odd;
    even = SUB64(even, _mm256_cmpeq_epi64(even, zero)); /* 0 counts as 1 */
    odd = SUB64(odd, _mm256_cmpeq_epi64(odd, zero));
    high = ODD_LANES(HIGH(even), odd);
    low = ODD_LANES(even, LOW(odd));
    small = _mm256_cmpeq_epi32(high, zero);
    bits = _mm256_andnot_si256(small, SET32(32)); /* those below the leading one, in the end */
    high = _mm256_blendv_epi8(high, low, small);
    low = _mm256_andnot_si256(small, low);
    bits = ADD(bits, SET32(31));
    leading_to_top(&high, &low, &bits, 16);
    leading_to_top(&high, &low, &bits, 8);
    leading_to_top(&high, &low, &bits, 4);
    leading_to_top(&high, &low, &bits, 2);
    leading_to_top(&high, &low, &bits, 1);
    entry = GATHER(kws_log2_table_q16, AND(_mm256_srli_epi32(high, 24), SET32(127))); /* and the next, above it */
    low = AND(entry, low16);
    log2 = _mm256_mullo_epi32(AND(SUB(_mm256_srli_epi32(entry, 16), low), low16), AND(_mm256_srli_epi32(high, 8), low16));
    log2 = ADD(_mm256_srli_epi32(ADD(log2, SET32(0x8000)), 16), ADD(low, _mm256_slli_epi32(bits, 16)));
    log2 = SUB(log2, exponent);
    product_even = ADD64(PRODUCT(log2, SET32(KWS_LN2_Q31)), round);
    product_odd = ADD64(PRODUCT(HIGH(log2), SET32(KWS_LN2_Q31)), round);
    log2 = ODD_LANES(_mm256_srli_epi64(product_even, 31), _mm256_slli_epi64(product_odd, 1));
    return ADD(log2, offset);
}

static TARGET void log_mel(const kws_frontend *frontend, const int16_t *samples, const int32_t *starts, int32_t *work,
                           int32_t *log_mel_q16)
{
    const int32_t n = frontend->n_fft / 2;
    const uint16_t *weights = frontend->mel_weights_q16;
    const int32_t right = frontend->log2_n_fft + 14;
    const vec half = SET64(1LL << (right - 1));
    const __m128i count_right = _mm_cvtsi32_si128(right);
    int32_t bits[LANES] __attribute__((aligned(64)));
    int32_t before[LANES] __attribute__((aligned(64))), left[LANES] __attribute__((aligned(64)));
    int32_t exponent[LANES] __attribute__((aligned(64)));
    uint64_t floor[2][LANES / 2] __attribute__((aligned(64))); /* of even lanes, of odd ones */
    const vec offset = SET32(frontend->log_offset_q16);
    vec shift, floor_even, floor_odd, rows[LANES];
    int32_t k, m, lane, n_rows = 0;
    for (lane = 0; lane < LANES; lane++)
        before[lane] = headroom(frontend, samples + starts[lane]);
    load(frontend, samples, starts, LOAD(before), work);
    complex_fft(work, n, frontend->log2_n_fft - 1, frontend->twiddles_q30);
    STORE(bits, split_real(work, n, frontend->twiddles_q31));
    for (lane = 0; lane < LANES; lane++) {
        const int32_t room = 30 - kws_bit_length((uint32_t)bits[lane]), most = frontend->t_max - before[lane];
        left[lane] = room > most ? most : room;
        exponent[lane] = kws_mel_exponent(frontend, before[lane] + left[lane]) * 65536;
        floor[lane % 2][lane / 2] = kws_mel_floor(frontend, before[lane] + left[lane], KWS_PEAK_NONE);
    }
    shift = LOAD(left);
    floor_even = LOAD(floor[0]);
    floor_odd = LOAD(floor[1]);
    for (k = 0; k <= n; k++) { /* in the place of the complex value: the low 32 bits, then the high ones */
        const vec re = SHIFT_LEFT(LOAD(RE(k)), shift), im = SHIFT_LEFT(LOAD(IM(k)), shift);
        const vec even = ADD64(PRODUCT(re, re), PRODUCT(im, im));
        const vec odd = ADD64(PRODUCT(HIGH(re), HIGH(re)), PRODUCT(HIGH(im), HIGH(im)));
        const vec a = SHIFT_RIGHT64(ADD64(even, half), count_right), b = SHIFT_RIGHT64(ADD64(odd, half), count_right);
        STORE(RE(k), ODD_LANES(a, LOW(b)));
        STORE(IM(k), ODD_LANES(HIGH(a), b));
    }
    for (m = 0; m < frontend->n_mels; m++) {
        const int32_t first = frontend->mel_first[m], end = first + frontend->mel_count[m];
        vec even = SET32(0), odd = SET32(0), high_sum = SET32(0); /* the latter, of all lanes, times 2^32 */
        for (k = first; k < end; k++) {
            const vec low = LOAD(RE(k)), weight = SET32(*weights++);
            even = ADD64(even, PRODUCT_UNSIGNED(low, weight));
            odd = ADD64(odd, PRODUCT_UNSIGNED(HIGH(low), weight));
            high_sum = ADD(high_sum, _mm256_mullo_epi32(LOAD(IM(k)), weight));
        }
        even = ADD64(ADD64(even, LOW(high_sum)), floor_even);
        odd = ADD64(ADD64(odd, ODD_LANES(SET32(0), high_sum)), floor_odd);
        rows[n_rows++] = log_q16(even, odd, LOAD(exponent), offset);
        if (n_rows == LANES) {
            transpose(rows);
            for (lane = 0; lane < LANES; lane++)
                _mm256_storeu_si256((vec *)(void *)(log_mel_q16 + lane * frontend->n_mels + m + 1 - LANES), rows[lane]);
            n_rows = 0;
        }
    }
    for (k = 0; k < n_rows; k++) {
        STORE(bits, rows[k]);
        for (lane = 0; lane < LANES; lane++)
            log_mel_q16[lane * frontend->n_mels + m - n_rows + k] = bits[lane];
    }
}

/* Eight at a time, where the product is shifted right by 32 at least: its upper half is enough */
static TARGET void quantize(const kws_frontend *frontend, const int32_t *q16, int8_t *features)
{
    const int32_t count = frontend->n_mfcc ? frontend->n_mfcc : frontend->n_mels, right = 31 - frontend->shift;
    const vec multiplier = SET32(frontend->multiplier), round = SET64(1LL << (right - 1));
    const vec zero_point = SET32(frontend->zero_point);
    const __m128i shift = _mm_cvtsi32_si128(right - 32);
    int32_t i = 0;
    if (right < 32 || count < LANES) {
        kws_frontend_quantize(frontend, q16, features);
        return;
    }
    while (i < count) {
        const vec x = _mm256_loadu_si256((const vec *)(const void *)(q16 + i));
        const vec even = ADD64(PRODUCT(x, multiplier), round), odd = ADD64(PRODUCT(HIGH(x), multiplier), round);
        const vec y = ADD(_mm256_sra_epi32(ODD_LANES(HIGH(even), odd), shift), zero_point);
        const __m128i wide = _mm_packs_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
        _mm_storel_epi64((__m128i *)(void *)(features + i), _mm_packs_epi16(wide, wide));
        i = i + LANES < count && i + 2 * LANES > count ? count - LANES : i + LANES; /* the last begin earlier */
    }
}

const kws_frontend_path kws_frontend_avx2 = {LANES, log_mel, quantize};
#endif
