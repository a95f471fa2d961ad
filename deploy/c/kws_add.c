/* SPDX-License-Identifier: Apache-2.0 */
/* Add: each (q - Z) << 20 scaled to a common scale, the sum to the output's. The output may lie on an input. */
#include "kws_arithmetic.h"

static int32_t common(int8_t q, int32_t zero_point, int32_t multiplier, int32_t shift, int32_t rounding)
{
    return kws_scale((q - zero_point) * (INT32_C(1) << 20), multiplier, shift, rounding); /* |q - Z| <= 255: < 2^28 */
}

void kws_add(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_add_op *op = (const kws_add_op *)op_;
    const int32_t rounding = op->requant.rounding;
    int32_t i;
    (void)scratch;
    for (i = 0; i < op->size; i++) {
        const int32_t a = common(input[i], op->input_zero_point, op->multiplier, op->shift, rounding);
        const int32_t b = common(input2[i], op->input2_zero_point, op->multiplier2, op->shift2, rounding);
        output[i] = kws_requantize(&op->requant, 0, kws_sum(a, b));
    }
}
