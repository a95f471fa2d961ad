/* SPDX-License-Identifier: Apache-2.0 */
#include "@name@_listen.h"

/* In @name@.c and @name@_frontend.c */
extern const @name@_nn_network @name@_nn_listen_network;
extern const @name@_nn_frontend @name@_nn_frontend_tables;

@listen_tables@
const @name@_nn_listen @name@_listening = {
@listen_members@
};

static void *aligned(void *memory)
{
    int8_t *first = (int8_t *)memory;
    return first + (@NAME@_NN_ALIGNMENT - (uintptr_t)first % @NAME@_NN_ALIGNMENT) % @NAME@_NN_ALIGNMENT;
}

int @name@_listen_init(void *memory, size_t size)
{
    if (size < @NAME@_LISTEN_SIZE)
        return -1;
    return @name@_nn_listen_init(&@name@_listening, aligned(memory), size - (@NAME@_NN_ALIGNMENT - 1));
}

int32_t @name@_listen_push(void *memory, const int16_t *samples, size_t n, @name@_event *events, int32_t most)
{
    return @name@_nn_listen_push(&@name@_listening, aligned(memory), samples, n, events, most);
}

int32_t @name@_listen_finish(void *memory, @name@_event *events, int32_t most)
{
    return @name@_nn_listen_finish(&@name@_listening, aligned(memory), events, most);
}
