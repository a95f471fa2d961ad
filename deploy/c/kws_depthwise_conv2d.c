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

enum { GROUP = 4, MOST_TAPS = 12 };

/* What all outputs of four channels have in common. A tap is (w - Zw) of channels 0 and 2, and of 1 and 3. */
typedef struct {
    int32_t bias[GROUP];
    kws_fast_scale scale[GROUP];
    int32_t taps[MOST_TAPS][2];
} four_channels;

/* -Z in both halves */
static int32_t minus_twice(int32_t zero_point)
{
    return (int32_t)((uint32_t)-zero_point << 16 | ((uint32_t)-zero_point & 0xffff));
}

static void take_channels(const kws_affine *op, int32_t channel, kws_fast way, four_channels *to)
{
    const int32_t minus_zw = minus_twice(op->weight_zero_point), n = op->window.kernel_h * op->window.kernel_w;
    int32_t i;
    for (i = 0; i < GROUP; i++) {
        const int32_t at = op->requant.per_channel ? channel + i : 0;
        to->bias[i] = op->bias[channel + i];
        to->scale[i] = kws_fast_scale_of(op->requant.multiplier[at], op->requant.shift[at], way);
    }
    for (i = 0; i < n; i++) {
        const int32_t word = kws_load4(op->weight + i * op->window.out_c + channel);
        to->taps[i][0] = kws_add_even(minus_zw, word);
        to->taps[i][1] = kws_add_odd(minus_zw, word);
    }
}

/* Adds (x - Zx)(w - Zw) of four channels; the differences fit 9 bits. Written out because compilers keep more taps at
 * once than there are registers for. */
#define TAP(at)                                                                                      \
    "ldr %[x_odd], [%[x]" at "]\n\tldrd %[w_even], %[w_odd], [%[w]], #8\n\t"                          \
    "sxtab16 %[x_even], %[zx], %[x_odd]\n\tsxtab16 %[x_odd], %[zx], %[x_odd], ror #8\n\t"             \
    "smlabb %[a], %[x_even], %[w_even], %[a]\n\tsmlabb %[b], %[x_odd], %[w_odd], %[b]\n\t"           \
    "smlatt %[c], %[x_even], %[w_even], %[c]\n\tsmlatt %[d], %[x_odd], %[w_odd], %[d]\n\t"
#define ADD_TAPS(taps)                                                                               \
    __asm__(taps                                                                                     \
            : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [x_even] "=&r"(x_even),            \
              [x_odd] "=&r"(x_odd), [w_even] "=&r"(w_even), [w_odd] "=&r"(w_odd), [w] "+r"(w)        \
            : [x] "r"(x), [next] "r"(channels), [zx] "r"(minus_zx)                                   \
            : "memory")

/* Four channels of a column of outputs: n taps a row of the kernel, kernels being up to three wide. `from` is in row 0
 * of the input, `taps` in row 0 of the kernel. */
static void one_column(const kws_affine *op, const four_channels *four, int32_t channel, const int8_t *from,
                       const int32_t *taps, int32_t n, int8_t *to, kws_fast way)
{
    /* copies, which writing to the output cannot change */
    const int32_t in_h = op->window.in_h, kernel_h = op->window.kernel_h, stride = op->window.stride_h;
    const int32_t channels = op->window.out_c, x_row = op->window.in_w * channels, to_row = op->window.out_w * channels;
    const int32_t w_row = 2 * op->window.kernel_w, w_skip = w_row - 2 * n, last = in_h - kernel_h;
    const int32_t minus_zx = minus_twice(op->input_zero_point), odd = 2 * op->requant.zero_point + 1;
    int32_t top = -op->window.pad_top, y;
    for (y = op->window.out_h; y > 0; y--, top += stride, to += to_row) {
        const int32_t *w = taps;
        const int8_t *x;
        int32_t a = four->bias[0], b = four->bias[1], c = four->bias[2], d = four->bias[3];
        int32_t rows = kernel_h, begin = top, x_even, x_odd, w_even, w_odd;
        if (top < 0 || top > last) {
            const int32_t first = kws_first(top);
            rows = kws_last(top, kernel_h, in_h) - first;
            begin += first;
            w += first * w_row;
        }
        x = from + begin * x_row;
        if (n == 3)
            for (; rows > 0; rows--, x += x_row)
                ADD_TAPS(TAP("") TAP(", %[next]") TAP(", %[next], lsl #1"));
        else if (n == 2)
            for (; rows > 0; rows--, x += x_row, w += w_skip)
                ADD_TAPS(TAP("") TAP(", %[next]"));
        else if (n == 1)
            for (; rows > 0; rows--, x += x_row, w += w_skip)
                ADD_TAPS(TAP(""));
        if (way == KWS_FAST_SINGLE) {
            to[0] = kws_fast_single(a, four->scale[0], odd);
            to[1] = kws_fast_single(b, four->scale[1], odd);
            to[2] = kws_fast_single(c, four->scale[2], odd);
            to[3] = kws_fast_single(d, four->scale[3], odd);
        } else if (way == KWS_FAST_TFLM) {
            to[0] = kws_fast_tflm(a, four->scale[0], odd);
            to[1] = kws_fast_tflm(b, four->scale[1], odd);
            to[2] = kws_fast_tflm(c, four->scale[2], odd);
            to[3] = kws_fast_tflm(d, four->scale[3], odd);
        } else {
            to[0] = kws_any_requantize(&op->requant, channel, a);
            to[1] = kws_any_requantize(&op->requant, channel + 1, b);
            to[2] = kws_any_requantize(&op->requant, channel + 2, c);
            to[3] = kws_any_requantize(&op->requant, channel + 3, d);
        }
    }
}

/* Four channels at a time, each its own input's, under kernels that are up to three wide; what channels these leave,
 * and other kernels, go the plain way. */
void kws_depthwise_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const kws_fast way = kws_fast_of(&op->requant, w->out_c);
    const int fits = w->in_c == w->out_c && w->kernel_w <= 3 && w->kernel_h * w->kernel_w <= MOST_TAPS;
    four_channels four;
    int32_t x, c;
    (void)input2;
    (void)scratch;
    for (c = 0; c + GROUP <= w->out_c && fits; c += GROUP) {
        take_channels(op, c, way, &four);
        for (x = 0; x < w->out_w; x++) {
            const int32_t left = x * w->stride_w - w->pad_left;
            const int32_t first = kws_first(left), n = kws_last(left, w->kernel_w, w->in_w) - first;
            const int8_t *from = input + (left + first) * w->in_c + c;
            one_column(op, &four, c, from, four.taps[first], n, output + x * w->out_c + c, way);
        }
    }
    some_channels(op, input, output, c, w->out_c);
    if (way != KWS_ONE_BY_ONE)
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
