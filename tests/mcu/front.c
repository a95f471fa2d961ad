/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the front-end of the exported model `m` on the frames in frames.bin and prints the features of each, the ticks
 * of the first and the stack.
 */
#include "board.h"
#include "m_frontend.h"

static int32_t work[M_FRONTEND_WORK];
static int16_t samples[M_FRAME_LENGTH];

int main(void)
{
    static int8_t features[M_N_FEATURES];
    const int file = board_open("frames.bin");
    int first, i;
    if (file < 0)
        return 1;
    for (first = 1; board_read(file, samples, sizeof samples) == (int)sizeof samples; first = 0) {
        const uint32_t begin = board_ticks();
        m_frame(samples, work, features);
        if (first) {
            board_print("run ");
            board_print_number((int32_t)board_ticks_since(begin));
            board_print("\n");
        }
        board_print("output");
        for (i = 0; i < M_N_FEATURES; i++) {
            board_print(" ");
            board_print_number(features[i]);
        }
        board_print("\n");
    }
    board_print("stack ");
    board_print_number((int32_t)board_stack_used());
    board_print("\n");
    return 0;
}
