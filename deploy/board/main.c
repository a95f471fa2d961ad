/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the exported model `m` on the inputs in inputs.bin and prints what the host reads: the ticks of each layer and of
 * a whole inference, both on the first input, the outputs of every input, and the stack that was used.
 */
#include "board.h"
#include "m.c" /* not m.h: the layers are timed one by one, and their table is static */

static int8_t memory[M_MEMORY_SIZE];

static void print_numbers(const char *what, const int8_t *values, int n)
{
    int i;
    board_print(what);
    for (i = 0; i < n; i++) {
        board_print(" ");
        board_print_number(values[i]);
    }
    board_print("\n");
}

static void print_ticks(const char *what, uint32_t ticks)
{
    board_print(what);
    board_print_number((int32_t)ticks);
    board_print("\n");
}

/* As m_nn_run does it */
static void time_layers(void)
{
    const m_nn_engine engine = engine_in(memory);
    void *scratch = engine.memory + M_NN_ALIGN(network.arena_size);
    int i;
    for (i = 0; i < network.n_steps; i++) {
        const m_nn_step *step = &steps[i];
        const uint32_t begin = board_ticks();
        step->kernel(step->op, engine.memory + step->input, engine.memory + step->input2,
                     engine.memory + step->output, scratch);
        print_ticks("layer ", board_ticks_since(begin));
    }
}

int main(void)
{
    int file = board_open("inputs.bin"), first;
    if (file < 0 || m_init(memory, sizeof memory) != 0)
        return 1;
    if (board_read(file, m_input(memory), M_INPUT_SIZE) != M_INPUT_SIZE)
        return 1;
    time_layers();
    file = board_open("inputs.bin");
    for (first = 1; board_read(file, m_input(memory), M_INPUT_SIZE) == M_INPUT_SIZE; first = 0) {
        const uint32_t begin = board_ticks();
        m_run(memory);
        if (first)
            print_ticks("run ", board_ticks_since(begin));
        print_numbers("output", m_output(memory), M_N_LABELS);
    }
    print_ticks("stack ", board_stack_used());
    return 0;
}
