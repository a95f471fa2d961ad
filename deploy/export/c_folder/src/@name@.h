/* SPDX-License-Identifier: Apache-2.0 */
/* @name@: a keyword spotter in integers. Made by `kws export --to c`; README.md has its sizes.
 *
 *     static int8_t memory[@NAME@_MEMORY_SIZE];
 *     @name@_init(memory, sizeof memory);
 *     ... write @NAME@_INPUT_SIZE quantized features to @name@_input(memory), before each run ...
 *     @name@_run(memory);
 *     puts(@name@_labels[@name@_top(memory)]);
 *
 * No heap, no statics that change, no floating point. Several memories may be in use at once, each by one thread at a
 * time.
 *
 * The input is quantized features, (time, features, channels) in C order:
 * q = round(feature / @NAME@_INPUT_SCALE) + @NAME@_INPUT_ZERO_POINT, saturated to int8. README.md has the front-end.
 */
#ifndef @NAME@_H
#define @NAME@_H

#include <stddef.h>
#include <stdint.h>

#include "@name@_nn.h"

#define @NAME@_INPUT_HEIGHT @input_height@ /* time */
#define @NAME@_INPUT_WIDTH @input_width@ /* features */
#define @NAME@_INPUT_CHANNELS @input_channels@
#define @NAME@_INPUT_SIZE @input_size@ /* bytes */
#define @NAME@_INPUT_SCALE @input_scale@
#define @NAME@_INPUT_ZERO_POINT (@input_zero_point@)

#define @NAME@_N_LABELS @n_labels@
#define @NAME@_OUTPUT_SCALE @output_scale@
#define @NAME@_OUTPUT_ZERO_POINT (@output_zero_point@)

/* Bytes of memory, aligned in whatever way: activations, scratch, and what it takes to align them */
#define @NAME@_MEMORY_SIZE (@NAME@_NN_ALIGNMENT - 1 + @NAME@_NN_MEMORY_SIZE(@arena_size@, @column@))

#ifdef __cplusplus
extern "C" {
#endif

/* UTF-8, in the order of the outputs */
extern const char *const @name@_labels[@NAME@_N_LABELS];

/* 0, or -1 where there are fewer than @NAME@_MEMORY_SIZE bytes */
int @name@_init(void *memory, size_t size);

/* Where @NAME@_INPUT_SIZE features are written. A run may write over them. */
int8_t *@name@_input(void *memory);

void @name@_run(void *memory);

/* The @NAME@_N_LABELS logits of the last run, until the next input is written */
const int8_t *@name@_output(void *memory);

/* The index of the largest logit, of equal ones the first */
int @name@_top(void *memory);

#ifdef __cplusplus
}
#endif

#endif
