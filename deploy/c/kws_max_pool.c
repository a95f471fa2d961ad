/* SPDX-License-Identifier: Apache-2.0 */
/* Max pool: the largest value under a window, clamped. */
#include "kws_arithmetic.h"

void kws_max_pool(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
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
            const int32_t i_last = kws_last(top, w->kernel_h, w->in_h);
            const int32_t j_last = kws_last(left, w->kernel_w, w->in_w);
            for (c = 0; c < w->in_c; c++) {
                int32_t largest = -128;
                for (i = kws_first(top); i < i_last; i++) {
                    for (j = kws_first(left); j < j_last; j++) {
                        const int32_t q = input[((top + i) * w->in_w + left + j) * w->in_c + c];
                        largest = q > largest ? q : largest;
                    }
                }
                *output++ = (int8_t)kws_clamp(largest, op->activation_min, op->activation_max);
            }
        }
    }
}
