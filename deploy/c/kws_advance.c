/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "kws_nn.h"

void kws_advance(const kws_engine *engine, const kws_move *moves, int32_t n_moves)
{
    int32_t i;
    for (i = 0; i < n_moves; i++)
        memmove(engine->memory + moves[i].target, engine->memory + moves[i].source, (size_t)moves[i].size);
}
