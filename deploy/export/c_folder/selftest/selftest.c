/* SPDX-License-Identifier: Apache-2.0 */
/* Runs @name@ on made-up inputs and compares every byte with what the NumPy executor computed when it was exported. */
#include <stdio.h>

#include "@name@.h"

/* Inputs 0 to @last_random@ are pseudo-random, the next is so at the type's ends alone, then all -128, all 127 */
static const int8_t expected[@n_golden@][@NAME@_N_LABELS] = {
@golden@
};

static int8_t memory[@NAME@_MEMORY_SIZE];

static void fill(int8_t *input, int number)
{
    uint32_t x = (uint32_t)number;
    int i;
    for (i = 0; i < @NAME@_INPUT_SIZE; i++) {
        x = x * UINT32_C(1664525) + UINT32_C(1013904223);
        if (number <= @last_random@)
            input[i] = (int8_t)((int)(x >> 24) - 128);
        else if (number == @last_random@ + 1)
            input[i] = x >> 31 ? 127 : -128;
        else
            input[i] = number == @last_random@ + 2 ? -128 : 127;
    }
}

int main(void)
{
    int wrong = 0, number, i;
    if (@name@_init(memory, sizeof memory - 1) != -1 || @name@_init(memory, sizeof memory) != 0) {
        printf("FAIL: @name@_init\n");
        return 1;
    }
    for (number = 0; number < @n_golden@; number++) {
        fill(@name@_input(memory), number);
        @name@_run(memory);
        for (i = 0; i < @NAME@_N_LABELS; i++) {
            const int found = @name@_output(memory)[i];
            if (found != expected[number][i]) {
                printf("input %d, output %d: %d, not %d\n", number, i, found, expected[number][i]);
                wrong++;
            }
        }
    }
    printf("%s: @name@, %d of %d outputs differ\n", wrong ? "FAIL" : "PASS", wrong, @n_golden@ * @NAME@_N_LABELS);
    return wrong != 0;
}
