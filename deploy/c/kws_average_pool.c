/* SPDX-License-Identifier: Apache-2.0 */
/* Average pool: sum / n, ties away from zero, n counting the positions that are not padding. */
#include "kws_arithmetic.h"

void kws_average_pool(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_pool *op = (const kws_pool *)op_;
    const kws_window *w = &op->window;
    int32_t y, x, c, i, j;
    (void)input2;
    (void)scratch;
    for (y = 0; y < w->out_h; y++) {
        for (x = 0; x < w->out_w; x++) {
            const int32_t top = y * w->stride_h - w->pad_top;
            const int32_t left = x * w->stride_w - w->pad_left;
            const int32_t i_first = kws_first(top), i_last = kws_last(top, w->kernel_h, w->in_h);
            const int32_t j_first = kws_first(left), j_last = kws_last(left, w->kernel_w, w->in_w);
            const int32_t count = (i_last - i_first) * (j_last - j_first);
            for (c = 0; c < w->in_c; c++) {
                int32_t acc = 0;
                for (i = i_first; i < i_last; i++)
                    for (j = j_first; j < j_last; j++)
                        acc = kws_sum(acc, input[((top + i) * w->in_w + left + j) * w->in_c + c]);
                *output++ = (int8_t)kws_clamp(kws_divide(acc, count), op->activation_min, op->activation_max);
            }
        }
    }
}
