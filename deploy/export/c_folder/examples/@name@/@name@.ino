/* SPDX-License-Identifier: Apache-2.0 */
/* Runs @name@ on an input of zeros (the real number 0, quantized) and prints what it takes it for, and how long it took. */
#include <@name@.h>

static int8_t memory[@NAME@_MEMORY_SIZE];

void setup()
{
    Serial.begin(115200);
    if (@name@_init(memory, sizeof memory) != 0)
        Serial.println("@name@_init failed");
}

void loop()
{
    int8_t *input = @name@_input(memory);
    for (int i = 0; i < @NAME@_INPUT_SIZE; i++)
        input[i] = @NAME@_INPUT_ZERO_POINT; /* here your front-end writes its quantized features */
    const unsigned long start_us = micros();
    @name@_run(memory);
    const unsigned long took_us = micros() - start_us;
    Serial.print(@name@_labels[@name@_top(memory)]);
    Serial.print(" in ");
    Serial.print(took_us);
    Serial.println(" us");
    delay(1000);
}
