/* SPDX-License-Identifier: Apache-2.0 */
/* Depthwise convolution: bias + sum (x - Zx)(w - Zw) over the positions that are not padding. */
#include "kws_arm_dsp.h"
#include "kws_helium.h"

/* Channels [begin, end) */
static void some_channels(const kws_affine *op, const int8_t *input, int8_t *output, int32_t begin, int32_t end)
{
    const kws_window *w = &op->window;
    const int32_t per_input = w->out_c / w->in_c;
    int32_t y, x, c, i, j;
    for (y = 0; y < w->out_h; y++) {
        for (x = 0; x < w->out_w; x++) {
            const int32_t top = y * w->stride_h - w->pad_top;
            const int32_t left = x * w->stride_w - w->pad_left;
            const int32_t i_last = kws_last(top, w->kernel_h, w->in_h);
            const int32_t j_last = kws_last(left, w->kernel_w, w->in_w);
            int8_t *to = output + (y * w->out_w + x) * w->out_c + begin;
            for (c = begin; c < end; c++) {
                int32_t acc = op->bias[c];
                for (i = kws_first(top); i < i_last; i++) {
                    for (j = kws_first(left); j < j_last; j++) {
                        const int32_t q = input[((top + i) * w->in_w + left + j) * w->in_c + c / per_input];
                        const int32_t k = op->weight[(i * w->kernel_w + j) * w->out_c + c];
                        acc = kws_sum(acc, (q - op->input_zero_point) * (k - op->weight_zero_point));
                    }
                }
                *to++ = kws_requantize(&op->requant, c, acc);
            }
        }
    }
}

#if defined(KWS_HELIUM)

enum { GROUP = 8 }; /* channels at a time: even ones in one vector of sums, odd ones in another */

/* The channels of one output that come in eights, each its own input's: `rows` rows of `taps` taps. Returns their
 * number. */
static int32_t one_position(
    const kws_affine *op, const int8_t *from, const int8_t *weight, int8_t *output, int32_t rows, int32_t taps,
    kws_way way)
{
    /* copies, which writing to the output cannot change */
    const kws_requant requant = op->requant;
    const int32_t *bias = op->bias;
    const int32_t channels = op->window.out_c, zx = op->input_zero_point, zw = op->weight_zero_point;
    const int32_t x_row = (op->window.in_w - taps) * channels, w_row = (op->window.kernel_w - taps) * channels;
    int32x4x2_t multiplier = {{vdupq_n_s32(requant.multiplier[0]), vdupq_n_s32(requant.multiplier[0])}};
    int16x8_t shift = vdupq_n_s16(requant.shift[0]);
    int32_t c;
    for (c = 0; c + GROUP <= channels; c += GROUP) {
        const int8_t *x_from = from + c, *w_from = weight + c;
        int32x4x2_t acc = vld2q_s32(bias + c);
        int16x8_t y = vdupq_n_s16(0);
        int32_t i, j;
        for (i = rows; i > 0; i--, x_from += x_row, w_from += w_row) {
            for (j = taps; j > 0; j--, x_from += channels, w_from += channels) {
                const int16x8_t x = vsubq_n_s16(vldrbq_s16(x_from), (int16_t)zx);
                const int16x8_t w = vsubq_n_s16(vldrbq_s16(w_from), (int16_t)zw);
                acc.val[0] = vaddq_s32(acc.val[0], vmullbq_int_s16(x, w));
                acc.val[1] = vaddq_s32(acc.val[1], vmulltq_int_s16(x, w));
            }
        }
        if (way == KWS_ANY) {
            int32_t sums[GROUP];
            vst2q_s32(sums, acc);
            for (i = 0; i < GROUP; i++)
                output[c + i] = kws_requantize(&op->requant, c + i, sums[i]);
        } else {
            if (requant.per_channel) {
                multiplier = vld2q_s32(requant.multiplier + c);
                shift = vldrbq_s16(requant.shift + c);
            }
            /* saturated to int16 before Z is added, and back in order */
            y = vqmovnbq_s32(y, kws_scale4(acc.val[0], multiplier.val[0], vmovlbq_s16(shift), way));
            y = vqmovntq_s32(y, kws_scale4(acc.val[1], multiplier.val[1], vmovltq_s16(shift), way));
            y = vqaddq_n_s16(y, (int16_t)requant.zero_point);
            y = vmaxq_s16(y, vdupq_n_s16((int16_t)requant.activation_min));
            vstrbq_s16(output + c, vminq_s16(y, vdupq_n_s16((int16_t)requant.activation_max)));
        }
    }
    return c;
}

/* What channels are left go the plain way, and those of an input that several share. */
void kws_depthwise_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const kws_way way = kws_way_of(&op->requant, w->out_c);
    int32_t y, x, done = 0;
    (void)input2;
    (void)scratch;
    for (y = 0; y < w->out_h && w->in_c == w->out_c; y++) {
        const int32_t top = y * w->stride_h - w->pad_top;
        const int32_t i_first = kws_first(top), rows = kws_last(top, w->kernel_h, w->in_h) - i_first;
        for (x = 0; x < w->out_w; x++) {
            const int32_t left = x * w->stride_w - w->pad_left;
            const int32_t j_first = kws_first(left), taps = kws_last(left, w->kernel_w, w->in_w) - j_first;
            const int8_t *from = input + ((top + i_first) * w->in_w + left + j_first) * w->in_c;
            const int8_t *weight = op->weight + (i_first * w->kernel_w + j_first) * w->out_c;
            done = one_position(op, from, weight, output + (y * w->out_w + x) * w->out_c, rows, taps, way);
        }
    }
    some_channels(op, input, output, done, w->out_c);
}

#elif defined(KWS_ARM_DSP)

enum { GROUP = 4 }; /* channels at a time */

/* Sums of four channels. Members, not an array: the compiler keeps them in registers. */
typedef struct {
    int32_t a, b, c, d;
} sums;

/* -Z in both halves */
static int32_t minus_twice(int32_t zero_point)
{
    return (int32_t)((uint32_t)-zero_point << 16 | ((uint32_t)-zero_point & 0xffff));
}

/* Adds (x - Zx)(w - Zw) of four channels; the differences fit 9 bits. */
static inline sums add_tap(sums acc, const int8_t *from, const int8_t *weight, int32_t minus_zx, int32_t minus_zw)
{
    const int32_t x = kws_load4(from), w = kws_load4(weight);
    const int32_t x_even = kws_add_even(minus_zx, x), x_odd = kws_add_odd(minus_zx, x);
    const int32_t w_even = kws_add_even(minus_zw, w), w_odd = kws_add_odd(minus_zw, w);
    acc.a = __smlabb(x_even, w_even, acc.a);
    acc.b = __smlabb(x_odd, w_odd, acc.b);
    acc.c = __smlatt(x_even, w_even, acc.c);
    acc.d = __smlatt(x_odd, w_odd, acc.d);
    __asm__("" : : : "memory"); /* taps one after the other: there are no registers for two */
    return acc;
}

/* The channels of one output that come in fours, each its own input's: `rows` rows of n taps. Returns their number. */
static inline __attribute__((always_inline)) int32_t one_position(
    const kws_affine *op, const int8_t *from, const int8_t *weight, int8_t *output, int32_t rows, int n, int fast)
{
    /* copies, which writing to the output cannot change */
    const int32_t *bias = op->bias, *multiplier = op->requant.multiplier;
    const int8_t *shift = op->requant.shift;
    const int32_t mask = op->requant.per_channel ? -1 : 0, odd = 2 * op->requant.zero_point + 1;
    const int32_t minus_zx = minus_twice(op->input_zero_point), minus_zw = minus_twice(op->weight_zero_point);
    const int32_t channels = op->window.out_c;
    const int32_t x_row = op->window.in_w * channels, w_row = op->window.kernel_w * channels;
    int32_t c;
    for (c = 0; c + GROUP <= channels; c += GROUP) {
        const int8_t *x_from = from + c, *w_from = weight + c;
        sums acc;
        int32_t i;
        acc.a = bias[c], acc.b = bias[c + 1], acc.c = bias[c + 2], acc.d = bias[c + 3];
        for (i = rows; i > 0; i--, x_from += x_row, w_from += w_row) {
            acc = add_tap(acc, x_from, w_from, minus_zx, minus_zw);
            if (n > 1)
                acc = add_tap(acc, x_from + channels, w_from + channels, minus_zx, minus_zw);
            if (n > 2)
                acc = add_tap(acc, x_from + 2 * channels, w_from + 2 * channels, minus_zx, minus_zw);
        }
        if (fast) {
            const int32_t i0 = c & mask, i1 = (c + 1) & mask, i2 = (c + 2) & mask, i3 = (c + 3) & mask;
            output[c] = kws_fast_requantize(kws_fast_requant_of(multiplier[i0], shift[i0], odd), acc.a);
            output[c + 1] = kws_fast_requantize(kws_fast_requant_of(multiplier[i1], shift[i1], odd), acc.b);
            output[c + 2] = kws_fast_requantize(kws_fast_requant_of(multiplier[i2], shift[i2], odd), acc.c);
            output[c + 3] = kws_fast_requantize(kws_fast_requant_of(multiplier[i3], shift[i3], odd), acc.d);
        } else {
            output[c] = kws_any_requantize(&op->requant, c, acc.a);
            output[c + 1] = kws_any_requantize(&op->requant, c + 1, acc.b);
            output[c + 2] = kws_any_requantize(&op->requant, c + 2, acc.c);
            output[c + 3] = kws_any_requantize(&op->requant, c + 3, acc.d);
        }
    }
    return c;
}

/* Kernels that are up to three wide; what channels these leave, and wider ones, go the plain way. */
void kws_depthwise_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const int fast = kws_is_fast(&op->requant, w->out_c), fits = w->in_c == w->out_c && w->kernel_w <= 3;
    int32_t y, x, done = 0;
    (void)input2;
    (void)scratch;
    for (y = 0; y < w->out_h && fits; y++) {
        const int32_t top = y * w->stride_h - w->pad_top;
        const int32_t i_first = kws_first(top), rows = kws_last(top, w->kernel_h, w->in_h) - i_first;
        for (x = 0; x < w->out_w; x++) {
            const int32_t left = x * w->stride_w - w->pad_left;
            const int32_t j_first = kws_first(left), n = kws_last(left, w->kernel_w, w->in_w) - j_first;
            const int8_t *from = input + ((top + i_first) * w->in_w + left + j_first) * w->in_c;
            const int8_t *weight = op->weight + (i_first * w->kernel_w + j_first) * w->out_c;
            int8_t *to = output + (y * w->out_w + x) * w->out_c;
            if (n == 3)
                done = one_position(op, from, weight, to, rows, 3, fast);
            else if (n == 2)
                done = one_position(op, from, weight, to, rows, 2, fast);
            else
                done = one_position(op, from, weight, to, n == 1 ? rows : 0, 1, fast);
        }
    }
    some_channels(op, input, output, done, w->out_c);
    if (fast)
        kws_clamp_all(&op->requant, output, w->out_h * w->out_w * w->out_c);
}

#else

void kws_depthwise_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    (void)input2;
    (void)scratch;
    some_channels(op, input, output, 0, op->window.out_c);
}

#endif
