/* SPDX-License-Identifier: Apache-2.0 */
/* Lets @name@ hear made-up noise in pieces of many sizes and compares its events with those that NumPy had when it was
 * exported. So that it has any, all thresholds are 1. */
#include <stdio.h>

#include "@name@_listen.h"

enum { N_SAMPLES = @golden_samples@, N_EVENTS = @n_golden_events@, MOST = N_EVENTS + 1 };

/* keyword, score, first, end; the last line is none */
static const int32_t expected[MOST][4] = {
@golden_events@
};
static const int32_t ones[@n_keywords@] = {
@ones@
};

static int64_t memory[(@NAME@_LISTEN_SIZE + 7) / 8 + 1];
static int16_t samples[N_SAMPLES];
static @name@_event events[MOST];

/* Pseudo-random, every 2,000 samples of another loudness */
static void fill(void)
{
    uint32_t x = 1;
    int i;
    for (i = 0; i < N_SAMPLES; i++) {
        x = x * UINT32_C(1664525) + UINT32_C(1013904223);
        samples[i] = (int16_t)(((int32_t)(x >> 16) - 32768) / (1 << (i / 2000 * 5 % 12)));
    }
}

static int32_t hear(const @name@_nn_listen *listen, void *aligned, int size)
{
    int32_t found = 0;
    int i = 0;
    while (i < N_SAMPLES) {
        const int n = N_SAMPLES - i < size ? N_SAMPLES - i : size;
        found += @name@_nn_listen_push(listen, aligned, samples + i, (size_t)n, events + found, MOST - found);
        if (found > MOST)
            return found;
        i += n;
        size = size * 3 % 4099 + 1;
    }
    return found + @name@_nn_listen_finish(listen, aligned, events + found, MOST - found);
}

int main(void)
{
    @name@_nn_listen eager = @name@_listening;
    int8_t *aligned = (int8_t *)memory;
    int wrong = 0, size, i;
    aligned += (@NAME@_NN_ALIGNMENT - (uintptr_t)aligned % @NAME@_NN_ALIGNMENT) % @NAME@_NN_ALIGNMENT;
    eager.thresholds = ones;
    eager.releases = ones;
    fill();
    if (@name@_listen_init(memory, @NAME@_LISTEN_SIZE - 1) != -1 || @name@_listen_init(memory, @NAME@_LISTEN_SIZE) != 0
        || @name@_nn_listen_size(&eager) != @NAME@_LISTEN_SIZE - (@NAME@_NN_ALIGNMENT - 1)) {
        printf("FAIL: @name@_listen_init\n");
        return 1;
    }
    for (size = 1; size <= N_SAMPLES; size = size * 40 + 1) {
        if (@name@_nn_listen_init(&eager, aligned, @name@_nn_listen_size(&eager)) != 0)
            return 1;
        if (hear(&eager, aligned, size) != N_EVENTS)
            wrong++;
        for (i = 0; i < N_EVENTS; i++)
            if (events[i].keyword != expected[i][0] || events[i].score != expected[i][1]
                || events[i].first != expected[i][2] || events[i].end != expected[i][3])
                wrong++;
    }
    printf("%s: @name@ listens, %d events, %d of them differ\n", wrong ? "FAIL" : "PASS", N_EVENTS, wrong);
    return wrong != 0;
}
