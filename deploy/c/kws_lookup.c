/* SPDX-License-Identifier: Apache-2.0 */
/* A function of one int8 by table: deploy/program.py has filled it. The output may lie on the input. */
#include "kws_nn.h"

void kws_lookup(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_lookup_op *op = (const kws_lookup_op *)op_;
    int32_t i;
    (void)input2;
    (void)scratch;
    for (i = 0; i < op->size; i++)
        output[i] = op->table[(uint8_t)input[i]];
}
