/* SPDX-License-Identifier: Apache-2.0 */
/* What the sketches take from Arduino. */
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stddef.h>

extern "C" {
#include "board.h"
}

void setup();
void loop();
unsigned long micros();
void delay(unsigned long milliseconds);

/* The console of the emulator; what comes in is samples.bin */
struct Console {
    int file;
    bool more;
    void begin(unsigned long) { file = board_open("samples.bin"); }
    size_t readBytes(char *to, size_t size)
    {
        const size_t n = board_read(file, to, size);
        more = n == size;
        return n;
    }
    void print(const char *text) { board_print(text); }
    void print(long value) { board_print_number(static_cast<int32_t>(value)); }
    template <class T> void println(T value)
    {
        print(value);
        print("\n");
    }
};
extern Console Serial;

#endif
