/* SPDX-License-Identifier: Apache-2.0 */
/* Reads quantized features, @NAME@_INPUT_SIZE bytes an input, until they end, and prints the label and logits of each:
 *     @name@_example < features.bin
 */
#include <stdio.h>

#include "@name@.h"

static int8_t memory[@NAME@_MEMORY_SIZE];

static void print_result(void)
{
    const int8_t *logits = @name@_output(memory);
    int i;
    printf("%s", @name@_labels[@name@_top(memory)]);
    for (i = 0; i < @NAME@_N_LABELS; i++)
        printf(" %d", logits[i]);
    printf("\n");
}

int main(void)
{
    size_t size;
    if (@name@_init(memory, sizeof memory) != 0)
        return 1;
    /* The input is written anew before each run: a run writes over it. */
    while ((size = fread(@name@_input(memory), 1, @NAME@_INPUT_SIZE, stdin)) == @NAME@_INPUT_SIZE) {
        @name@_run(memory);
        print_result();
    }
    if (size != 0) {
        fprintf(stderr, "the last input is short: %u of %d bytes\n", (unsigned)size, @NAME@_INPUT_SIZE);
        return 1;
    }
    return 0;
}
