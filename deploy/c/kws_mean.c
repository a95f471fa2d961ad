/* SPDX-License-Identifier: Apache-2.0 */
/* Mean over H and W: the centred sum, one requantization. */
#include "kws_arithmetic.h"

void kws_mean(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_mean_op *op = (const kws_mean_op *)op_;
    int32_t c, i;
    (void)input2;
    (void)scratch;
    for (c = 0; c < op->channels; c++) {
        int32_t acc = 0;
        for (i = 0; i < op->count; i++)
            acc = kws_sum(acc, input[i * op->channels + c] - op->input_zero_point);
        output[c] = kws_requantize(&op->requant, 0, acc);
    }
}
