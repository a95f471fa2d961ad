/* SPDX-License-Identifier: Apache-2.0 */
/* The numbers of @name@, rounded by the rule '@rounding@'. Weights are OHWI or HWC. */
#include "@name@.h"

const char *const @name@_labels[@NAME@_N_LABELS] = {
@labels@
};

@tables@
static const @name@_nn_step steps[] = {
@steps@
};

static const @name@_nn_network network = {
@network@
};

@listen_network@static @name@_nn_engine engine_in(void *memory)
{
    int8_t *first = (int8_t *)memory;
    @name@_nn_engine engine;
    engine.network = &network;
    engine.memory = first + (@NAME@_NN_ALIGNMENT - (uintptr_t)first % @NAME@_NN_ALIGNMENT) % @NAME@_NN_ALIGNMENT;
    return engine;
}

int @name@_init(void *memory, size_t size)
{
    @name@_nn_engine engine;
    if (size < @NAME@_MEMORY_SIZE)
        return -1;
    engine = engine_in(memory);
    return @name@_nn_init(&engine, &network, engine.memory, size - (size_t)(engine.memory - (int8_t *)memory));
}

int8_t *@name@_input(void *memory)
{
    const @name@_nn_engine engine = engine_in(memory);
    return @name@_nn_input(&engine);
}

void @name@_run(void *memory)
{
    const @name@_nn_engine engine = engine_in(memory);
    @name@_nn_run(&engine);
}

const int8_t *@name@_output(void *memory)
{
    const @name@_nn_engine engine = engine_in(memory);
    return @name@_nn_output(&engine);
}

int @name@_top(void *memory)
{
    const int8_t *logits = @name@_output(memory);
    int top = 0, i;
    for (i = 1; i < @NAME@_N_LABELS; i++)
        if (logits[i] > logits[top])
            top = i;
    return top;
}
