/* SPDX-License-Identifier: Apache-2.0 */
/* Convolution and fully connected: bias + sum x w - Zw sum x, with Zx in the bias and the padding filled with Zx. */
#include <string.h>

#include "kws_arm_dsp.h"

/* The `kernel_h kernel_w in_c` values that output (y, x) sees: in place where they lie side by side, else gathered. */
static const int8_t *column_of(const kws_affine *op, const int8_t *input, int32_t y, int32_t x, int8_t *scratch)
{
    const kws_window *w = &op->window;
    const int32_t top = y * w->stride_h - w->pad_top;
    const int32_t left = x * w->stride_w - w->pad_left;
    const int32_t row = w->in_w * w->in_c;
    const int32_t first = kws_first(left), last = kws_last(left, w->kernel_w, w->in_w);
    int8_t *to = scratch;
    int32_t i;
    if (top >= 0 && top + w->kernel_h <= w->in_h && left >= 0 && left + w->kernel_w <= w->in_w
        && (w->kernel_h == 1 || w->kernel_w == w->in_w))
        return input + top * row + left * w->in_c;
    for (i = top; i < top + w->kernel_h; i++) {
        const size_t size = (size_t)(w->kernel_w * w->in_c);
        if (i < 0 || i >= w->in_h) {
            memset(to, op->input_zero_point, size);
        } else {
            const size_t before = (size_t)(first * w->in_c), inside = (size_t)((last - first) * w->in_c);
            memset(to, op->input_zero_point, before);
            memcpy(to + before, input + i * row + (left + first) * w->in_c, inside);
            memset(to + before + inside, op->input_zero_point, size - before - inside);
        }
        to += size;
    }
    return scratch;
}

static int32_t sum(const int8_t *a, int32_t n)
{
    int32_t acc = 0, i;
    for (i = 0; i < n; i++)
        acc += a[i];
    return acc;
}

#ifdef KWS_ARM_DSP

/* Two outputs of two channels: [position][channel] */
typedef struct {
    int32_t acc[2][2];
} square;

/* n int8 as int16: of every four, 0 and 2, then 1 and 3, as kws_even and kws_odd give the weights; the rest in order.
 * `from` may be the second half of `to`: a group is read before it is written. */
static void expand(const int8_t *from, int16_t *to, int32_t n)
{
    for (; n >= 4; n -= 4, from += 4, to += 4) {
        const int32_t word = kws_load4(from);
        kws_store_pair(to, kws_even(word));
        kws_store_pair(to + 2, kws_odd(word));
    }
    for (; n > 0; n--)
        *to++ = *from++;
}

/* Adds the products of two columns and two rows of weights. Sums are bounded in any order (Graph.check). */
static inline square dot2x2(square sums, const int16_t *x0, const int16_t *x1, const int8_t *w0, const int8_t *w1, int32_t n)
{
    int32_t a = sums.acc[0][0], b = sums.acc[0][1], c = sums.acc[1][0], d = sums.acc[1][1];
    const int8_t *end = w0 + (n & ~3);
    while (w0 < end) {
        const int32_t word0 = kws_load4(w0), word1 = kws_load4(w1);
        const int32_t even0 = kws_even(word0), odd0 = kws_odd(word0), even1 = kws_even(word1), odd1 = kws_odd(word1);
        const int32_t x0_even = kws_load_pair(x0), x0_odd = kws_load_pair(x0 + 2);
        const int32_t x1_even = kws_load_pair(x1), x1_odd = kws_load_pair(x1 + 2);
        a = __smlad(even0, x0_even, a);
        b = __smlad(even1, x0_even, b);
        c = __smlad(even0, x1_even, c);
        d = __smlad(even1, x1_even, d);
        a = __smlad(odd0, x0_odd, a);
        b = __smlad(odd1, x0_odd, b);
        c = __smlad(odd0, x1_odd, c);
        d = __smlad(odd1, x1_odd, d);
        w0 += 4, w1 += 4, x0 += 4, x1 += 4;
    }
    for (end += n & 3; w0 < end; w0++, w1++, x0++, x1++) {
        a += *w0 * *x0;
        b += *w1 * *x0;
        c += *w0 * *x1;
        d += *w1 * *x1;
    }
    sums.acc[0][0] = a, sums.acc[0][1] = b, sums.acc[1][0] = c, sums.acc[1][1] = d;
    return sums;
}

/* Outputs two by two positions and channels; where their number is odd, the last of them twice. */
void kws_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const int32_t size = w->kernel_h * w->kernel_w * w->in_c, positions = w->out_h * w->out_w;
    const int fast = kws_is_fast(&op->requant, w->out_c);
    int16_t *columns[2];
    int32_t position, c, i;
    (void)input2;
    columns[0] = (int16_t *)scratch;
    columns[1] = columns[0] + (size + 3) / 4 * 4;
    for (position = 0; position < positions; position += 2) {
        int8_t *out[2];
        int32_t offset[2];
        for (i = 0; i < 2; i++) {
            const int32_t p = position + i < positions ? position + i : position;
            const int8_t *column = column_of(op, input, p / w->out_w, p % w->out_w, (int8_t *)columns[i] + size);
            offset[i] = op->weight_zero_point ? op->weight_zero_point * sum(column, size) : 0;
            expand(column, columns[i], size);
            out[i] = output + p * w->out_c;
        }
        for (c = 0; c < w->out_c; c += 2) {
            const int32_t c1 = c + 1 < w->out_c ? c + 1 : c;
            square sums;
            sums.acc[0][0] = op->bias[c] - offset[0];
            sums.acc[0][1] = op->bias[c1] - offset[0];
            sums.acc[1][0] = op->bias[c] - offset[1];
            sums.acc[1][1] = op->bias[c1] - offset[1];
            sums = dot2x2(sums, columns[0], columns[1], op->weight + c * size, op->weight + c1 * size, size);
            if (fast) {
                const kws_fast_requant r0 = kws_fast_requant_of(&op->requant, c);
                const kws_fast_requant r1 = kws_fast_requant_of(&op->requant, c1);
                out[0][c] = kws_fast_requantize(r0, sums.acc[0][0]);
                out[1][c] = kws_fast_requantize(r0, sums.acc[1][0]);
                out[0][c1] = kws_fast_requantize(r1, sums.acc[0][1]);
                out[1][c1] = kws_fast_requantize(r1, sums.acc[1][1]);
            } else {
                out[0][c] = kws_requantize(&op->requant, c, sums.acc[0][0]);
                out[1][c] = kws_requantize(&op->requant, c, sums.acc[1][0]);
                out[0][c1] = kws_requantize(&op->requant, c1, sums.acc[0][1]);
                out[1][c1] = kws_requantize(&op->requant, c1, sums.acc[1][1]);
            }
        }
    }
    if (fast)
        kws_clamp_all(&op->requant, output, positions * w->out_c);
}

#else

static int32_t dot(int32_t acc, const int8_t *a, const int8_t *b, int32_t n)
{
    int32_t i;
    for (i = 0; i < n; i++)
        acc = kws_sum(acc, a[i] * b[i]);
    return acc;
}

void kws_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const int32_t size = w->kernel_h * w->kernel_w * w->in_c;
    int32_t y, x, c;
    (void)input2;
    for (y = 0; y < w->out_h; y++) {
        for (x = 0; x < w->out_w; x++) {
            const int8_t *column = column_of(op, input, y, x, (int8_t *)scratch);
            const int32_t offset = op->weight_zero_point ? op->weight_zero_point * sum(column, size) : 0;
            for (c = 0; c < w->out_c; c++) {
                const int32_t acc = dot(kws_sum(op->bias[c], -offset), column, op->weight + c * size, size);
                *output++ = kws_requantize(&op->requant, c, acc);
            }
        }
    }
}

#endif
