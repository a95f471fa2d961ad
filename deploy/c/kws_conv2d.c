/* SPDX-License-Identifier: Apache-2.0 */
/* Convolution and fully connected: bias + sum x w - Zw sum x, with Zx in the bias and the padding filled with Zx. */
#include <string.h>

#include "kws_arithmetic.h"

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

static int32_t dot(int32_t acc, const int8_t *a, const int8_t *b, int32_t n)
{
    int32_t i;
    for (i = 0; i < n; i++)
        acc = kws_sum(acc, a[i] * b[i]);
    return acc;
}

static int32_t sum(const int8_t *a, int32_t n)
{
    int32_t acc = 0, i;
    for (i = 0; i < n; i++)
        acc += a[i];
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
