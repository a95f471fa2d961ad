/* SPDX-License-Identifier: Apache-2.0 */
#include <Arduino.h>

Console Serial;

/* The clock has 25 MHz. Right when called every 0.6 s, in which the counter comes round. */
unsigned long micros()
{
    static uint32_t last, ticks;
    ticks += board_ticks_since(last);
    last = board_ticks();
    return ticks / 25;
}

void delay(unsigned long) {}

/* For the self-tests' printf, which goes unbuffered where there is no heap */
extern "C" int _write(int, const char *text, int size)
{
    for (int i = 0; i < size; i++) {
        const char one[2] = {text[i], 0};
        board_print(one);
    }
    return size;
}

extern "C" void *_sbrk(int)
{
    return reinterpret_cast<void *>(-1);
}

/* Once, or until the samples end: the emulator ends where main does */
int main()
{
    setup();
    do
        loop();
    while (Serial.more);
    return 0;
}
