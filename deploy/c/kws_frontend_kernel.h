/* SPDX-License-Identifier: Apache-2.0 */
/* The spectrum of one frame, or of several side by side: included with these defined.
 *
 *   LANES                 frames at once
 *   INLINE                how a function is declared
 *   vec                   LANES int32
 *   LOAD(p) STORE(p, v)   at int32_t *p
 *   ADD(a, b) SUB(a, b)
 *   MULTIPLY_HIGH(v, w)   v * w / 2^32, half up, w an int32_t (features/fixed_math.py, multiply_high)
 *   MULTIPLY_HIGH_ADD(s, v, w)  s + MULTIPLY_HIGH(v, w)
 *   MULTIPLY_HIGH_SUB(s, v, w)  s + MULTIPLY_HIGH(-v, w)
 *       or, in the place of these three, COMPLEX_MULTIPLY
 *   HALF(v) QUARTER(v)    half up
 *   OR_ABS(bits, v)       bits | abs(v)
 *
 * Complex value k lies in work[2 k LANES], its imaginary part LANES further.
 */

#define RE(k) (work + (size_t)(k) * 2 * LANES)
#define IM(k) (work + (size_t)(k) * 2 * LANES + LANES)

/* Real and imaginary part of x w, scaled as MULTIPLY_HIGH does */
#ifndef COMPLEX_MULTIPLY
#define COMPLEX_MULTIPLY(out_r, out_i, xr, xi, w)                              \
    do {                                                                       \
        const vec product_r = MULTIPLY_HIGH(xr, (w)[0]);                       \
        const vec product_i = MULTIPLY_HIGH(xr, (w)[1]);                       \
        (out_r) = MULTIPLY_HIGH_SUB(product_r, xi, (w)[1]);                    \
        (out_i) = MULTIPLY_HIGH_ADD(product_i, xi, (w)[0]);                    \
    } while (0)
#endif

INLINE void store_radix_4(int32_t *work, int32_t at, int32_t length, vec ar, vec ai, vec br, vec bi, vec cr, vec ci,
                          vec dr, vec di)
{
    const vec even_r = ADD(ar, cr), even_i = ADD(ai, ci), odd_r = SUB(ar, cr), odd_i = SUB(ai, ci);
    const vec sum_r = ADD(br, dr), sum_i = ADD(bi, di), diff_r = SUB(br, dr), diff_i = SUB(bi, di);
    STORE(RE(at), ADD(even_r, sum_r));
    STORE(IM(at), ADD(even_i, sum_i));
    STORE(RE(at + length), ADD(odd_r, diff_i));
    STORE(IM(at + length), SUB(odd_i, diff_r));
    STORE(RE(at + 2 * length), SUB(even_r, sum_r));
    STORE(IM(at + 2 * length), SUB(even_i, sum_i));
    STORE(RE(at + 3 * length), SUB(odd_r, diff_i));
    STORE(IM(at + 3 * length), ADD(odd_i, diff_r));
}

/* In place: n complex values in bit-reversed order -> their spectrum / n, in order */
INLINE void complex_fft(int32_t *work, int32_t n, int32_t log2_n, const int32_t *twiddles)
{
    int32_t length = 1, at, j;
    if (log2_n % 2) {
        for (at = 0; at < n; at += 2) {
            const vec ar = HALF(LOAD(RE(at))), ai = HALF(LOAD(IM(at)));
            const vec br = HALF(LOAD(RE(at + 1))), bi = HALF(LOAD(IM(at + 1)));
            STORE(RE(at), ADD(ar, br));
            STORE(IM(at), ADD(ai, bi));
            STORE(RE(at + 1), SUB(ar, br));
            STORE(IM(at + 1), SUB(ai, bi));
        }
        length = 2;
    }
    for (; length < n; length *= 4) {
        const int32_t stride = n / (4 * length); /* of the twiddles */
        for (at = 0; at < n; at += 4 * length) /* j = 0: no rotation */
            store_radix_4(work, at, length, QUARTER(LOAD(RE(at))), QUARTER(LOAD(IM(at))),
                          QUARTER(LOAD(RE(at + 2 * length))), QUARTER(LOAD(IM(at + 2 * length))),
                          QUARTER(LOAD(RE(at + length))), QUARTER(LOAD(IM(at + length))),
                          QUARTER(LOAD(RE(at + 3 * length))), QUARTER(LOAD(IM(at + 3 * length))));
        for (j = 1; j < length; j++) {
            const int32_t *w1 = twiddles + 2 * j * stride, *w2 = w1 + 2 * j * stride, *w3 = w2 + 2 * j * stride;
            for (at = j; at < n; at += 4 * length) {
                vec br, bi, cr, ci, dr, di;
                COMPLEX_MULTIPLY(cr, ci, LOAD(RE(at + length)), LOAD(IM(at + length)), w2);
                COMPLEX_MULTIPLY(br, bi, LOAD(RE(at + 2 * length)), LOAD(IM(at + 2 * length)), w1);
                COMPLEX_MULTIPLY(dr, di, LOAD(RE(at + 3 * length)), LOAD(IM(at + 3 * length)), w3);
                store_radix_4(work, at, length, QUARTER(LOAD(RE(at))), QUARTER(LOAD(IM(at))), br, bi, cr, ci, dr, di);
            }
        }
    }
}

/* In place: the spectrum of n complex values -> the n + 1 bins of the 2 n real ones, halved; the OR of all magnitudes */
INLINE vec split_real(int32_t *work, int32_t n, const int32_t *twiddles)
{
    const vec first_r = HALF(LOAD(RE(0))), first_i = HALF(LOAD(IM(0)));
    const vec zero = SUB(first_r, first_r);
    const vec middle_r = HALF(LOAD(RE(n / 2))), middle_i = SUB(zero, HALF(LOAD(IM(n / 2))));
    vec bits = OR_ABS(OR_ABS(zero, middle_r), middle_i);
    int32_t k;
    STORE(RE(n / 2), middle_r);
    STORE(IM(n / 2), middle_i);
    STORE(RE(0), ADD(first_r, first_i));
    STORE(IM(0), zero);
    STORE(RE(n), SUB(first_r, first_i));
    STORE(IM(n), zero);
    bits = OR_ABS(OR_ABS(bits, LOAD(RE(0))), LOAD(RE(n)));
    for (k = 1; k < n / 2; k++) {
        const vec zr = LOAD(RE(k)), zi = LOAD(IM(k)), yr = LOAD(RE(n - k)), yi = LOAD(IM(n - k));
        const vec even_r = ADD(QUARTER(zr), QUARTER(yr)), even_i = SUB(QUARTER(zi), QUARTER(yi));
        const vec xr = ADD(HALF(zi), HALF(yi)), xi = SUB(HALF(yr), HALF(zr));
        vec odd_r, odd_i, low_r, low_i, high_r, high_i;
        COMPLEX_MULTIPLY(odd_r, odd_i, xr, xi, twiddles + 2 * k);
        low_r = ADD(even_r, odd_r);
        low_i = ADD(even_i, odd_i);
        high_r = SUB(even_r, odd_r);
        high_i = SUB(odd_i, even_i);
        STORE(RE(k), low_r);
        STORE(IM(k), low_i);
        STORE(RE(n - k), high_r);
        STORE(IM(n - k), high_i);
        bits = OR_ABS(OR_ABS(OR_ABS(OR_ABS(bits, low_r), low_i), high_r), high_i);
    }
    return bits;
}

/* The index after `reversed` in bit-reversed counting below n */
#ifndef KWS_NEXT_REVERSED
#define KWS_NEXT_REVERSED
static inline int32_t next_reversed(int32_t reversed, int32_t n)
{
    int32_t bit = n / 2;
    while (reversed & bit) {
        reversed ^= bit;
        bit /= 2;
    }
    return reversed | bit;
}
#endif
