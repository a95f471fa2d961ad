/* SPDX-License-Identifier: Apache-2.0 */
/* Depthwise convolution: bias + sum (x - Zx)(w - Zw) over the positions that are not padding. */
#include "kws_arithmetic.h"

void kws_depthwise_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const int32_t per_input = w->out_c / w->in_c;
    int32_t y, x, c, i, j;
    (void)input2;
    (void)scratch;
    for (y = 0; y < w->out_h; y++) {
        for (x = 0; x < w->out_w; x++) {
            const int32_t top = y * w->stride_h - w->pad_top;
            const int32_t left = x * w->stride_w - w->pad_left;
            const int32_t i_last = kws_last(top, w->kernel_h, w->in_h);
            const int32_t j_last = kws_last(left, w->kernel_w, w->in_w);
            for (c = 0; c < w->out_c; c++) {
                int32_t acc = op->bias[c];
                for (i = kws_first(top); i < i_last; i++) {
                    for (j = kws_first(left); j < j_last; j++) {
                        const int32_t q = input[((top + i) * w->in_w + left + j) * w->in_c + c / per_input];
                        const int32_t k = op->weight[(i * w->kernel_w + j) * w->out_c + c];
                        acc = kws_sum(acc, (q - op->input_zero_point) * (k - op->weight_zero_point));
                    }
                }
                *output++ = kws_requantize(&op->requant, c, acc);
            }
        }
    }
}
