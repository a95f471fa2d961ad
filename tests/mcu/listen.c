/* SPDX-License-Identifier: Apache-2.0 */
/* Lets the exported model `m` listen to samples.bin in pieces and prints the events, the ticks of each piece, and the
 * stack.
 */
#include "board.h"
#include "m_listen.h"

enum { PIECE = 640, MOST = 4 }; /* one window a piece: the counter of a board is short */

static int8_t memory[M_LISTEN_SIZE];
static int16_t samples[PIECE];
static m_event events[MOST];

static void print(const char *what, int32_t value)
{
    board_print(what);
    board_print_number(value);
}

static void print_events(int32_t n)
{
    int32_t i;
    for (i = 0; i < n; i++) {
        print("output ", events[i].keyword);
        print(" ", events[i].score);
        print(" ", (int32_t)events[i].first);
        print(" ", (int32_t)events[i].end);
        board_print("\n");
    }
}

int main(void)
{
    const int file = board_open("samples.bin");
    uint32_t size;
    if (file < 0 || m_listen_init(memory, sizeof memory) != 0)
        return 1;
    while ((size = board_read(file, samples, sizeof samples)) > 0) {
        const uint32_t begin = board_ticks();
        const int32_t n = m_listen_push(memory, samples, size / 2, events, MOST);
        print("run ", (int32_t)board_ticks_since(begin));
        board_print("\n");
        print_events(n);
    }
    print_events(m_listen_finish(memory, events, MOST));
    print("stack ", (int32_t)board_stack_used());
    board_print("\n");
    return 0;
}
