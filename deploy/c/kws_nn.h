/* SPDX-License-Identifier: Apache-2.0 */
/* The integer runtime: networks as constant data, kernels that compute the bits of deploy/reference.py.
 *
 * No heap, no mutable statics, no floating point. An activation is int8, (H, W, C) in C order, H being time; one
 * inference at a time. What a network needs to be safe was proved before it got here (Graph.check, check_arena): shapes
 * fit, no int32 sum overflows in any order of adding, offsets lie inside the memory. With KWS_CHECKED defined the sums
 * are checked again as they run.
 */
#ifndef KWS_NN_H
#define KWS_NN_H

#include <stddef.h>
#include <stdint.h>

enum { KWS_SINGLE = 0, KWS_TFLM = 1 }; /* rounding rules, kws/arithmetic/README.md A10 */
enum { KWS_ALIGNMENT = 16 };           /* of the memory, in bytes */

/* int32 sums -> int8: multiplier * 2^(shift - 31), rounded by `rounding`, plus zero_point, clamped (A10, A11) */
typedef struct {
    const int32_t *multiplier; /* one, or one a channel: 0 or 2^30 <= multiplier */
    const int8_t *shift;       /* as many, -31..30 */
    int32_t per_channel;       /* 0: one for all, 1: one a channel */
    int32_t zero_point;
    int32_t activation_min;
    int32_t activation_max;
    int32_t rounding;
} kws_requant;

/* A window over (in_h, in_w, in_c): output (y, x) begins at input (y stride_h - pad_top, x stride_w - pad_left) */
typedef struct {
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t pad_top, pad_left;
} kws_window;

/* conv2d, weight OHWI, and depthwise_conv2d, weight HWC with C = in_c m and channel c reading channel c / m.
 * Fully connected is conv2d on (1, 1, I). */
typedef struct {
    kws_window window;
    const int8_t *weight;
    const int32_t *bias; /* (out_c); conv2d: bias + Zx (K Zw - sum w), so that x is taken raw; depthwise: as it is */
    int32_t input_zero_point;
    int32_t weight_zero_point;
    kws_requant requant;
    const void *packed; /* of a fast path (kws_x86.h), or 0 */
} kws_affine;

/* average_pool, max_pool */
typedef struct {
    kws_window window;
    int32_t activation_min;
    int32_t activation_max;
} kws_pool;

/* (q - Z) << 20 of each input scaled to a common scale, the sum to the output's */
typedef struct {
    int32_t size;
    int32_t input_zero_point, input2_zero_point;
    int32_t multiplier, shift;
    int32_t multiplier2, shift2;
    kws_requant requant;
} kws_add_op;

/* product of `rows` rows of `row_size` values, each with the second input's one row */
typedef struct {
    int32_t rows, row_size;
    int32_t input_zero_point, input2_zero_point;
    kws_requant requant;
} kws_mul_op;

/* mean over `count` positions of `channels` values; the division is in the multiplier */
typedef struct {
    int32_t count, channels;
    int32_t input_zero_point;
    kws_requant requant;
} kws_mean_op;

/* one input of a concatenation: `rows` rows of `row_size` values, each moved to `output_offset` of a longer row */
typedef struct {
    int32_t rows, row_size;
    int32_t output_row_size, output_offset;
    int32_t input_zero_point;
    kws_requant requant;
} kws_concatenation_op;

/* slice: `size` values from `begin` of a tensor of `shape`; pad: a tensor of `size` at `begin` of one of `shape`, in Z */
typedef struct {
    int32_t shape[4], begin[4], size[4];
    int32_t zero_point;
} kws_block;

/* logistic: what each of the 256 values of int8 becomes, in the order of its byte, so 0..127, -128..-1 */
typedef struct {
    int32_t size;
    const int8_t *table;
} kws_lookup_op;

/* softmax over rows of `classes` values; multiplier 2^(left_shift - 31) is beta S in Q5.26 */
typedef struct {
    int32_t rows, classes;
    int32_t multiplier, left_shift;
} kws_softmax_op;

/* One argument order for all: the op's constants, its input (add, mul: and `input2`), its output, scratch memory */
typedef void kws_kernel(const void *op, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch);

kws_kernel kws_conv2d;
kws_kernel kws_depthwise_conv2d;
kws_kernel kws_add;
kws_kernel kws_mul;
kws_kernel kws_average_pool;
kws_kernel kws_max_pool;
kws_kernel kws_mean;
kws_kernel kws_concatenation;
kws_kernel kws_slice;
kws_kernel kws_pad;
kws_kernel kws_lookup;
kws_kernel kws_softmax;

typedef struct {
    kws_kernel *kernel;
    const void *op;
    int32_t input, input2, output; /* offsets into the memory */
} kws_step;

typedef struct {
    const kws_step *steps;
    int32_t n_steps;
    int32_t input, input_size; /* offset and bytes */
    int32_t output, output_size;
    int32_t arena_size; /* bytes of all activations */
    int32_t column;     /* the largest kernel_h kernel_w in_c of a conv2d, or 0 */
    int32_t scratch_size; /* of a fast path that wants more than kws_conv2d, or 0 */
} kws_network;

/* A network and the memory that it computes in */
typedef struct {
    const kws_network *network;
    int8_t *memory;
} kws_engine;

/* Bytes of scratch memory that kws_conv2d takes: one column, or four of int16 where the DSP path is compiled */
#if defined(__ARM_FEATURE_DSP) && !defined(__ARM_FEATURE_MVE) && !defined(KWS_PORTABLE)
#define KWS_SCRATCH_SIZE(column) (8 * (((column) + 3) / 4 * 4))
#else
#define KWS_SCRATCH_SIZE(column) (column)
#endif
#define KWS_ALIGN(size) (((size) + KWS_ALIGNMENT - 1) / KWS_ALIGNMENT * KWS_ALIGNMENT)
#define KWS_MEMORY_SIZE(arena, column) (KWS_ALIGN(arena) + KWS_ALIGN(KWS_SCRATCH_SIZE(column)))

/* Bytes of memory, aligned to KWS_ALIGNMENT, that the network computes in */
size_t kws_memory_size(const kws_network *network);

/* 0, or -1 where the memory is too small or not aligned. Holds no state between two runs but the memory. */
int kws_init(kws_engine *engine, const kws_network *network, void *memory, size_t memory_size);

/* Where the input is written before each run (input_size values) and where the output is read (output_size values).
 * A run may overwrite its input. */
int8_t *kws_input(const kws_engine *engine);
const int8_t *kws_output(const kws_engine *engine);

void kws_run(const kws_engine *engine);

/* Streaming (deploy/streaming.py): the steps of `network` compute the new columns of every layer, next to earlier ones
 * in the same memory. After each kws_run the columns that a later step sees move to where it looks for them. */
typedef struct {
    int32_t target, source, size; /* offsets and bytes; target < source */
} kws_move;

void kws_advance(const kws_engine *engine, const kws_move *moves, int32_t n_moves);

#endif
