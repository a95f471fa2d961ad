/* SPDX-License-Identifier: Apache-2.0 */
/* Mul: (a - Za)(b - Zb) scaled to the output's. The output may lie on the first input, and on a second of one size. */
#include "kws_arithmetic.h"

void kws_mul(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_mul_op *op = (const kws_mul_op *)op_;
    int32_t row, i;
    (void)scratch;
    for (row = 0; row < op->rows; row++, input += op->row_size, output += op->row_size)
        for (i = 0; i < op->row_size; i++) { /* |q - Z| <= 255 */
            const int32_t product = (input[i] - op->input_zero_point) * (input2[i] - op->input2_zero_point);
            output[i] = kws_requantize(&op->requant, 0, product);
        }
}
