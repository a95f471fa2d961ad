/* SPDX-License-Identifier: Apache-2.0 */
#include "kws_nn.h"

static size_t scratch_size(const kws_network *network)
{
    const size_t column = (size_t)KWS_SCRATCH_SIZE(network->column);
    const size_t wanted = (size_t)network->scratch_size;
    return column > wanted ? column : wanted;
}

size_t kws_memory_size(const kws_network *network)
{
    return KWS_ALIGN((size_t)network->arena_size) + KWS_ALIGN(scratch_size(network));
}

int kws_init(kws_engine *engine, const kws_network *network, void *memory, size_t memory_size)
{
    if (memory_size < kws_memory_size(network) || (uintptr_t)memory % KWS_ALIGNMENT != 0)
        return -1;
    engine->network = network;
    engine->memory = (int8_t *)memory;
    return 0;
}

int8_t *kws_input(const kws_engine *engine)
{
    return engine->memory + engine->network->input;
}

const int8_t *kws_output(const kws_engine *engine)
{
    return engine->memory + engine->network->output;
}

void kws_run(const kws_engine *engine)
{
    const kws_network *network = engine->network;
    int8_t *memory = engine->memory;
    void *scratch = memory + KWS_ALIGN((size_t)network->arena_size);
    int32_t i;
    for (i = 0; i < network->n_steps; i++) {
        const kws_step *step = &network->steps[i];
        step->kernel(step->op, memory + step->input, memory + step->input2, memory + step->output, scratch);
    }
}
