/* SPDX-License-Identifier: Apache-2.0 */
/* Prints the keywords in raw int16 samples, one channel at @sample_rate@ Hz, that come over a serial port that waits for the
 * board, as USB does. On a board with a microphone its driver fills `samples` instead.
 */
#include <@name@_listen.h>

enum { PIECE = @sample_rate@ / 20, MOST = 8 };

static int8_t memory[@NAME@_LISTEN_SIZE];
static int16_t samples[PIECE];

static void print_events(const @name@_event *events, int32_t n)
{
    for (int32_t i = 0; i < n && i < MOST; i++) {
        Serial.print(@name@_labels[events[i].keyword]);
        Serial.print(", ");
        Serial.print((long)events[i].score);
        Serial.println(" of 255");
    }
}

void setup()
{
    Serial.begin(1000000);
    if (@name@_listen_init(memory, sizeof memory) != 0)
        Serial.println("@name@_listen_init failed");
}

void loop()
{
    @name@_event events[MOST];
    const size_t n = Serial.readBytes((char *)samples, sizeof samples) / sizeof *samples;
    print_events(events, @name@_listen_push(memory, samples, n, events, MOST));
    if (n < PIECE) { /* nothing came for a second: the recording has ended */
        print_events(events, @name@_listen_finish(memory, events, MOST));
        @name@_listen_init(memory, sizeof memory);
    }
}
