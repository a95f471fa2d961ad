/* SPDX-License-Identifier: Apache-2.0 */
/* Prints keywords as they are said into a microphone: raw int16 samples, one channel at @sample_rate@ Hz
 *     arecord -q -f S16_LE -r @sample_rate@ -c 1 | @name@_listen_example
 */
#include <stdio.h>

#include "@name@_listen.h"

enum { PIECE = @sample_rate@ / 20, MOST = 8 };

static int8_t memory[@NAME@_LISTEN_SIZE];
static int16_t samples[PIECE];

static void print_events(const @name@_event *events, int32_t n)
{
    int32_t i;
    for (i = 0; i < n && i < MOST; i++) {
        const long start = (long)@NAME@_MILLISECONDS(events[i].first), end = (long)@NAME@_MILLISECONDS(events[i].end);
        printf("%ld ms to %ld ms: %s, %d of 255\n", start, end, @name@_labels[events[i].keyword], (int)events[i].score);
        fflush(stdout);
    }
}

int main(void)
{
    @name@_event events[MOST];
    size_t n;
    if (@name@_listen_init(memory, sizeof memory) != 0)
        return 1;
    while ((n = fread(samples, sizeof *samples, PIECE, stdin)) > 0)
        print_events(events, @name@_listen_push(memory, samples, n, events, MOST));
    print_events(events, @name@_listen_finish(memory, events, MOST));
    return 0;
}
