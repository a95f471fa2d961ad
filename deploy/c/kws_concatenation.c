/* SPDX-License-Identifier: Apache-2.0 */
/* Concatenation, one input at a time: its rows into the output's, each value brought to the output's (S, Z). */
#include "kws_arithmetic.h"

void kws_concatenation(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_concatenation_op *op = (const kws_concatenation_op *)op_;
    int32_t row, i;
    (void)input2;
    (void)scratch;
    for (row = 0; row < op->rows; row++) {
        int8_t *to = output + row * op->output_row_size + op->output_offset;
        for (i = 0; i < op->row_size; i++)
            to[i] = kws_requantize(&op->requant, 0, *input++ - op->input_zero_point);
    }
}
