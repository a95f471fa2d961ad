/* SPDX-License-Identifier: Apache-2.0 */
/* Slice: a block of a tensor. The output may begin where the input does: no value is written before it is read. */
#include <string.h>

#include "kws_nn.h"

void kws_slice(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_block *op = (const kws_block *)op_;
    int32_t i, j, k;
    (void)input2;
    (void)scratch;
    for (i = op->begin[0]; i < op->begin[0] + op->size[0]; i++) {
        for (j = op->begin[1]; j < op->begin[1] + op->size[1]; j++) {
            for (k = op->begin[2]; k < op->begin[2] + op->size[2]; k++) {
                const int32_t row = (i * op->shape[1] + j) * op->shape[2] + k;
                memmove(output, input + row * op->shape[3] + op->begin[3], (size_t)op->size[3]);
                output += op->size[3];
            }
        }
    }
}
