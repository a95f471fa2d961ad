/* SPDX-License-Identifier: Apache-2.0 */
/* Every case through every path of AMX and AVX-512 that takes it: outputs are those of NumPy, byte for byte, and nothing
 * beyond them is written. Prints a line for each path, by port 0xe9, then ends the emulation. tests/amx/run.py makes the
 * cases.
 */
#include <string.h>

#include "kws_x86.h"

typedef struct {
    int32_t depthwise, input_size, output_size, n_requant;
    kws_window window;
    int32_t input_zero_point, weight_zero_point;
    int32_t per_channel, zero_point, activation_min, activation_max, rounding;
    int32_t weight_size;
    /* then, each padded to 4 bytes: weight, bias, multiplier, shift, input, output */
} header;

enum { GUARD = 64, FILL = 0x5a };

extern const uint8_t cases[], cases_end[];
static uint8_t packed[1 << 21] __attribute__((aligned(64)));
static uint8_t scratch[1 << 20] __attribute__((aligned(64)));
static int8_t input[1 << 16], output[GUARD + (1 << 16) + GUARD];

void *memcpy(void *to, const void *from, size_t n)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return start;
}

void *memset(void *to, int value, size_t n)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
    return start;
}

static void say(const char *text)
{
    for (; *text; text++)
        __asm__ volatile("outb %0, %1" : : "a"(*text), "Nd"((uint16_t)0xe9));
}

static void say_number(int32_t value)
{
    char digits[12], *at = digits + sizeof digits - 1;
    *at = 0;
    do
        *--at = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    say(at);
}

static const uint8_t *take(const uint8_t **at, int32_t size)
{
    const uint8_t *from = *at;
    *at += (size + 3) / 4 * 4;
    return from;
}

static int untouched(const void *at)
{
    int32_t i;
    for (i = 0; i < GUARD; i++)
        if (((const uint8_t *)at)[i] != FILL)
            return 0;
    return 1;
}

/* Whether `path` gives the case at *at, or does not take it; *at moves behind it, *taken is counted */
static int equal(const kws_fast_path *path, const uint8_t **at, int32_t *taken)
{
    const header *h = (const header *)(const void *)take(at, sizeof(header));
    const int32_t channels = h->window.out_c;
    const int8_t *from, *expected;
    size_t packed_size, scratch_size;
    kws_affine op;
    int32_t i;
    op.window = h->window;
    op.weight = (const int8_t *)take(at, h->weight_size);
    op.bias = (const int32_t *)(const void *)take(at, 4 * channels);
    op.input_zero_point = h->input_zero_point;
    op.weight_zero_point = h->weight_zero_point;
    op.requant.multiplier = (const int32_t *)(const void *)take(at, 4 * h->n_requant);
    op.requant.shift = (const int8_t *)take(at, h->n_requant);
    op.requant.per_channel = h->per_channel;
    op.requant.zero_point = h->zero_point;
    op.requant.activation_min = h->activation_min;
    op.requant.activation_max = h->activation_max;
    op.requant.rounding = h->rounding;
    op.packed = 0;
    from = (const int8_t *)take(at, h->input_size);
    expected = (const int8_t *)take(at, h->output_size);
    if ((path->portable == kws_depthwise_conv2d) != h->depthwise || path->packed_size(&op) == 0)
        return 1;
    packed_size = path->packed_size(&op);
    scratch_size = path->scratch_size(&op);
    if (packed_size > sizeof packed - GUARD || scratch_size > sizeof scratch - GUARD
        || (size_t)h->input_size > sizeof input || (size_t)h->output_size > sizeof output - 2 * GUARD)
        return 0;
    ++*taken;
    memcpy(input, from, (size_t)h->input_size);
    memset(output, FILL, sizeof output);
    memset(packed + packed_size, FILL, GUARD);
    memset(scratch + scratch_size, FILL, GUARD);
    path->pack(&op, packed);
    path->kernel(&op, input, 0, output + GUARD, scratch);
    for (i = 0; i < h->output_size; i++)
        if (output[GUARD + i] != expected[i])
            return 0;
    return untouched(output) && untouched(output + GUARD + h->output_size) && untouched(packed + packed_size)
           && untouched(scratch + scratch_size);
}

static void try(const kws_fast_path *path)
{
    const uint8_t *at = cases;
    int32_t number = 0, taken = 0;
    for (; at < cases_end; number++) {
        if (!equal(path, &at, &taken)) {
            say("DIFFERS ");
            say(path->name);
            say(" case ");
            say_number(number);
            say("\n");
            return;
        }
    }
    say("equal ");
    say_number(taken);
    say(" ");
    say(path->name);
    say("\n");
}

int main(void)
{
    const char *text = "Shutdown";
    size_t i;
    for (i = 0; i < kws_n_amx_paths; i++)
        try(&kws_amx_paths[i]);
    for (i = 0; i < kws_n_avx512_paths; i++)
        if (kws_avx512_paths[i].portable != kws_add)
            try(&kws_avx512_paths[i]);
    say("end\n");
    for (; *text; text++)
        __asm__ volatile("outb %0, %1" : : "a"(*text), "d"((uint16_t)0x8900));
    return 0;
}
