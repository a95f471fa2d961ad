/* SPDX-License-Identifier: Apache-2.0 */
/* What the sketches take from Arduino. */
#ifndef ARDUINO_H
#define ARDUINO_H

extern "C" {
#include "board.h"
}

void setup();
void loop();
unsigned long micros();
void delay(unsigned long milliseconds);

/* The console of the emulator */
struct Console {
    void begin(unsigned long) {}
    void print(const char *text) { board_print(text); }
    void print(unsigned long value) { board_print_number(static_cast<int32_t>(value)); }
    template <class T> void println(T value)
    {
        print(value);
        print("\n");
    }
};
extern Console Serial;

#endif
