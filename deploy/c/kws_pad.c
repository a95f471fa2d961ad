/* SPDX-License-Identifier: Apache-2.0 */
/* Pad: a border of Z around a tensor. */
#include <string.h>

#include "kws_nn.h"

void kws_pad(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_block *op = (const kws_block *)op_;
    int32_t i, j, k;
    (void)input2;
    (void)scratch;
    memset(output, op->zero_point, (size_t)(op->shape[0] * op->shape[1] * op->shape[2] * op->shape[3]));
    for (i = op->begin[0]; i < op->begin[0] + op->size[0]; i++) {
        for (j = op->begin[1]; j < op->begin[1] + op->size[1]; j++) {
            for (k = op->begin[2]; k < op->begin[2] + op->size[2]; k++) {
                const int32_t row = (i * op->shape[1] + j) * op->shape[2] + k;
                memcpy(output + row * op->shape[3] + op->begin[3], input, (size_t)op->size[3]);
                input += op->size[3];
            }
        }
    }
}
