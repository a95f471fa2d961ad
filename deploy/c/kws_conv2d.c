/* SPDX-License-Identifier: Apache-2.0 */
/* Convolution and fully connected: bias + sum x w - Zw sum x, with Zx in the bias and the padding filled with Zx. */
#include <string.h>

#include "kws_arm_dsp.h"
#include "kws_dot.h"

#if defined(KWS_ARM_DSP) && !defined(KWS_HELIUM)

/* A column is what one output sees, as int16 with zeros behind the last. Four columns lie side by side, four values of
 * each in a group: values 0 and 2 of every column, then 1 and 3 of every column, as kws_even and kws_odd give the
 * weights. */
enum { GROUP = 4, COLUMNS = 4, WORDS = 2 * COLUMNS };

static int32_t groups_of(int32_t size)
{
    return (size + GROUP - 1) / GROUP;
}

/* Appends n values to a column that holds k, `step` 1: one after the other, 0: n times the first of four equal ones.
 * Returns k + n. */
static uint32_t append(int32_t *column, uint32_t k, const int8_t *from, int32_t step, int32_t n)
{
    int32_t *group = column + k / GROUP * WORDS;
    if (k % GROUP == 0) {
        for (; n >= GROUP; n -= GROUP, k += GROUP, from += GROUP * step, group += WORDS) {
            const int32_t word = kws_load4(from);
            group[0] = kws_even(word);
            group[COLUMNS] = kws_odd(word);
        }
    }
    for (; n > 0; n--, k++, from += step) {
        const int16_t value = *from;
        group = column + k / GROUP * WORDS;
        if (k % GROUP == 0)
            group[0] = group[COLUMNS] = 0;
        memcpy((int16_t *)(void *)(group + k % 2 * COLUMNS) + k % GROUP / 2, &value, sizeof value);
    }
    return k;
}

/* The column of output (y, x) */
static void gather(const kws_affine *op, const int8_t *input, int32_t y, int32_t x, int32_t *column)
{
    const kws_window *w = &op->window;
    const int32_t top = y * w->stride_h - w->pad_top, left = x * w->stride_w - w->pad_left;
    const int32_t first = kws_first(left), last = kws_last(left, w->kernel_w, w->in_w);
    const int8_t zero = (int8_t)op->input_zero_point, zeros[GROUP] = {zero, zero, zero, zero};
    const int32_t above = kws_first(top), end = kws_last(top, w->kernel_h, w->in_h), inside = (last - first) * w->in_c;
    const int8_t *from = input + ((top + above) * w->in_w + left + first) * w->in_c;
    uint32_t k = 0;
    int32_t i;
    if (above > 0)
        k = append(column, 0, zeros, 0, above * w->kernel_w * w->in_c);
    if (last - first == w->kernel_w && (w->kernel_w == w->in_w || end - above == 1)) { /* side by side */
        k = append(column, k, from, 1, (end - above) * inside);
    } else {
        for (i = above; i < end; i++, from += w->in_w * w->in_c) {
            if (first > 0)
                k = append(column, k, zeros, 0, first * w->in_c);
            k = append(column, k, from, 1, inside);
            if (last < w->kernel_w)
                k = append(column, k, zeros, 0, (w->kernel_w - last) * w->in_c);
        }
    }
    if (end < w->kernel_h)
        append(column, k, zeros, 0, (w->kernel_h - end) * w->kernel_w * w->in_c);
}

static int32_t sum(const int32_t *column, int32_t groups)
{
    int32_t acc = 0, i;
    for (i = 0; i < groups; i++, column += WORDS)
        acc = __smlad(column[COLUMNS], 0x10001, __smlad(column[0], 0x10001, acc));
    return acc;
}

/* Sums of four columns. They are bounded in any order of adding. Members, not an array: the compiler keeps them in
 * registers. */
typedef struct {
    int32_t a, b, c, d;
} tile;

/* A group of one row of weights, in 13 instructions for 16 products. Written out because the compiler has no such load
 * of four words. It takes 12 of 14 registers. */
#define FOUR(half)                                                                                   \
    "ldmia %[x]!, {r0, r1, r2, r3}\n\tsmlad %[a], %[" half "], r0, %[a]\n\t"                         \
    "smlad %[b], %[" half "], r1, %[b]\n\tsmlad %[c], %[" half "], r2, %[c]\n\t"                     \
    "smlad %[d], %[" half "], r3, %[d]\n\t"
#define MULTIPLY_GROUP                                                                               \
    "ldr %[odd], [%[w]], #4\n\tsxtb16 %[even], %[odd]\n\tsxtb16 %[odd], %[odd], ror #8\n\t"          \
    FOUR("even") FOUR("odd")
#define MULTIPLY(groups)                                                                             \
    __asm__(groups                                                                                   \
            : [a] "+r"(sums.a), [b] "+r"(sums.b), [c] "+r"(sums.c), [d] "+r"(sums.d), [x] "+r"(x),   \
              [w] "+r"(w), [even] "=&r"(even), [odd] "=&r"(odd)                                      \
            :                                                                                        \
            : "r0", "r1", "r2", "r3", "memory")

static inline tile multiply(tile sums, const int32_t *x, const int8_t *w, int32_t size)
{
    int32_t n, even, odd;
    for (n = size / (4 * GROUP); n > 0; n--)
        MULTIPLY(MULTIPLY_GROUP MULTIPLY_GROUP MULTIPLY_GROUP MULTIPLY_GROUP);
    if (size & 2 * GROUP)
        MULTIPLY(MULTIPLY_GROUP MULTIPLY_GROUP);
    if (size & GROUP)
        MULTIPLY(MULTIPLY_GROUP);
    if (size % GROUP) { /* the last weights, and zeros */
        int8_t rest[GROUP] = {0, 0, 0, 0};
        memcpy(rest, w, (size_t)(size % GROUP));
        w = rest;
        MULTIPLY(MULTIPLY_GROUP);
    }
    return sums;
}

/* Requantizes and stores four sums of a channel, `step` apart; saturated, not yet clamped */
static inline void store_single(tile sums, kws_fast_scale scale, int32_t odd, int8_t *to, int32_t step)
{
    int8_t *third = to + 2 * step;
    to[0] = kws_fast_single(sums.a, scale, odd);
    to[step] = kws_fast_single(sums.b, scale, odd);
    third[0] = kws_fast_single(sums.c, scale, odd);
    third[step] = kws_fast_single(sums.d, scale, odd);
}

static inline void store_tflm(tile sums, kws_fast_scale scale, int32_t odd, int8_t *to, int32_t step)
{
    int8_t *third = to + 2 * step;
    to[0] = kws_fast_tflm(sums.a, scale, odd);
    to[step] = kws_fast_tflm(sums.b, scale, odd);
    third[0] = kws_fast_tflm(sums.c, scale, odd);
    third[step] = kws_fast_tflm(sums.d, scale, odd);
}

/* The same in whichever way, once in the program */
static __attribute__((noinline)) void store_any(
    const kws_requant *requant, int32_t channel, int32_t a, int32_t b, int32_t c, int32_t d, int8_t *to, int32_t step)
{
    const int32_t sums[COLUMNS] = {a, b, c, d};
    int32_t i;
    for (i = 0; i < COLUMNS; i++)
        to[i * step] = kws_requantize(requant, channel, sums[i]);
}

/* All channels of four positions, whose outputs lie `step` apart */
static void four_positions(
    const kws_affine *op, const int32_t *columns, int32_t size, int8_t *output, int32_t step, kws_fast way)
{
    /* copies, which writing to the output cannot change */
    const int32_t *bias = op->bias, *multiplier = op->requant.multiplier;
    const int8_t *shift = op->requant.shift, *weight = op->weight;
    const int32_t mask = op->requant.per_channel ? -1 : 0, odd = 2 * op->requant.zero_point + 1;
    const int32_t channels = op->window.out_c, zw = op->weight_zero_point;
    int32_t offset[COLUMNS], i;
    for (i = 0; i < COLUMNS; i++)
        offset[i] = zw ? zw * sum(columns + i, groups_of(size)) : 0;
    for (i = 0; i < channels; i++, weight += size) {
        tile sums;
        sums.a = sums.b = sums.c = sums.d = bias[i];
        if (zw)
            sums.a -= offset[0], sums.b -= offset[1], sums.c -= offset[2], sums.d -= offset[3];
        sums = multiply(sums, columns, weight, size);
        if (way == KWS_FAST_SINGLE) {
            const kws_fast_scale scale = kws_fast_scale_of(multiplier[i & mask], shift[i & mask], KWS_FAST_SINGLE);
            store_single(sums, scale, odd, output + i, step);
        } else if (way == KWS_FAST_TFLM) {
            const kws_fast_scale scale = kws_fast_scale_of(multiplier[i & mask], shift[i & mask], KWS_FAST_TFLM);
            store_tflm(sums, scale, odd, output + i, step);
        } else {
            store_any(&op->requant, i, sums.a, sums.b, sums.c, sums.d, output + i, step);
        }
        __asm__("" : "+r"(i)); /* so that one index is kept and not a pointer for each array */
    }
}

/* Four positions at a time, the last four again where some are left; where there are fewer, each alone, four times. */
void kws_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const int32_t size = w->kernel_h * w->kernel_w * w->in_c, positions = w->out_h * w->out_w;
    const kws_fast way = kws_fast_of(&op->requant, w->out_c);
    const int32_t at_once = positions < COLUMNS ? 1 : COLUMNS, step = positions < COLUMNS ? 0 : 1;
    int32_t *columns = (int32_t *)scratch;
    int32_t position, i;
    (void)input2;
    for (position = 0; position < positions; position += at_once) {
        const int32_t begin = position + at_once > positions ? positions - at_once : position;
        for (i = 0; i < COLUMNS; i++) {
            const int32_t p = begin + i * step;
            gather(op, input, p / w->out_w, p % w->out_w, columns + i);
        }
        four_positions(op, columns, size, output + begin * w->out_c, step * w->out_c, way);
    }
    if (way != KWS_ONE_BY_ONE)
        kws_clamp_all(&op->requant, output, positions * w->out_c);
}

#else

/* The `kernel_h kernel_w in_c` values that output (y, x) sees: in place where they lie side by side, else gathered. */
static const int8_t *column_of(const kws_affine *op, const int8_t *input, int32_t y, int32_t x, int8_t *scratch)
{
    const kws_window *w = &op->window;
    const int32_t top = y * w->stride_h - w->pad_top;
    const int32_t left = x * w->stride_w - w->pad_left;
    const int32_t row = w->in_w * w->in_c;
    const int32_t first = kws_first(left), last = kws_last(left, w->kernel_w, w->in_w);
    int8_t *to = scratch;
    int32_t i;
    if (top >= 0 && top + w->kernel_h <= w->in_h && left >= 0 && left + w->kernel_w <= w->in_w
        && (w->kernel_h == 1 || w->kernel_w == w->in_w))
        return input + top * row + left * w->in_c;
    for (i = top; i < top + w->kernel_h; i++) {
        const size_t size = (size_t)(w->kernel_w * w->in_c);
        if (i < 0 || i >= w->in_h) {
            memset(to, op->input_zero_point, size);
        } else {
            const size_t before = (size_t)(first * w->in_c), inside = (size_t)((last - first) * w->in_c);
            memcpy(to + before, input + i * row + (left + first) * w->in_c, inside);
            if (inside < size) {
                memset(to, op->input_zero_point, before);
                memset(to + before + inside, op->input_zero_point, size - before - inside);
            }
        }
        to += size;
    }
    return scratch;
}

static int32_t sum(const int8_t *a, int32_t n)
{
    int32_t acc = 0, i;
    for (i = 0; i < n; i++)
        acc += a[i];
    return acc;
}

#ifdef KWS_HELIUM

/* Sixteen products a row of weights. Written out for the loads that move their pointers on. */
#define SIXTEEN(row) "vldrb.8 q1, [%[w" row "]], #16\n\tvmladava.s8 %[a" row "], q0, q1\n\t"

/* The channels of one position that come in fours: the column is loaded once for four rows. Returns their number. */
static int32_t in_fours(
    const kws_affine *op, const int8_t *column, int32_t size, int32_t offset, kws_way way, int8_t *output)
{
    /* copies, which writing to the output cannot change */
    const kws_requant requant = op->requant;
    const int32_t *bias = op->bias;
    const int32_t channels = op->window.out_c;
    const int32x4_t low = vdupq_n_s32(requant.activation_min), high = vdupq_n_s32(requant.activation_max);
    int32x4_t multiplier = vdupq_n_s32(requant.multiplier[0]), shift = vdupq_n_s32(requant.shift[0]);
    const int8_t *w0 = op->weight;
    int32_t c;
    for (c = 0; c + 4 <= channels; c += 4) {
        const int8_t *x = column, *w1 = w0 + size, *w2 = w1 + size, *w3 = w2 + size;
        /* even registers, as vmladava wants them: the compiler moves one in and out of an odd one */
        register int32_t a0 __asm__("r4") = bias[c], a1 __asm__("r6") = bias[c + 1];
        register int32_t a2 __asm__("r8") = bias[c + 2], a3 __asm__("r10") = bias[c + 3];
        int32x4_t acc;
        int32_t n;
        for (n = size / 16; n > 0; n--)
            __asm__("vldrb.8 q0, [%[x]], #16\n\t" SIXTEEN("0") SIXTEEN("1") SIXTEEN("2") SIXTEEN("3")
                    : [a0] "+r"(a0), [a1] "+r"(a1), [a2] "+r"(a2), [a3] "+r"(a3), [x] "+r"(x),
                      [w0] "+r"(w0), [w1] "+r"(w1), [w2] "+r"(w2), [w3] "+r"(w3)
                    :
                    : "q0", "q1", "memory");
        if (size % 16) {
            const mve_pred16_t inside = vctp8q((uint32_t)size % 16);
            const int8x16_t rest = vldrbq_z_s8(x, inside);
            a0 = vmladavaq_s8(a0, rest, vldrbq_z_s8(w0, inside));
            a1 = vmladavaq_s8(a1, rest, vldrbq_z_s8(w1, inside));
            a2 = vmladavaq_s8(a2, rest, vldrbq_z_s8(w2, inside));
            a3 = vmladavaq_s8(a3, rest, vldrbq_z_s8(w3, inside));
        }
        w0 = w3 + size % 16;
        __asm__("vmov %q0[2], %q0[0], %1, %3\n\tvmov %q0[3], %q0[1], %2, %4"
                : "=&w"(acc)
                : "r"(a0), "r"(a1), "r"(a2), "r"(a3));
        acc = vsubq_n_s32(acc, offset);
        if (way == KWS_ANY) {
            int32_t sums[4], i;
            vst1q_s32(sums, acc);
            for (i = 0; i < 4; i++)
                output[c + i] = kws_requantize(&op->requant, c + i, sums[i]);
        } else {
            if (requant.per_channel) {
                multiplier = vld1q_s32(requant.multiplier + c);
                shift = vldrbq_s32(requant.shift + c);
            }
            acc = vqaddq_n_s32(kws_scale4(acc, multiplier, shift, way), requant.zero_point);
            vstrbq_s32(output + c, vminq_s32(vmaxq_s32(acc, low), high));
        }
    }
    return c;
}

#endif

void kws_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const int32_t size = w->kernel_h * w->kernel_w * w->in_c;
#ifdef KWS_HELIUM
    const kws_way way = kws_way_of(&op->requant, w->out_c);
#endif
    int32_t y, x, c;
    (void)input2;
    for (y = 0; y < w->out_h; y++) {
        for (x = 0; x < w->out_w; x++, output += w->out_c) {
            const int8_t *column = column_of(op, input, y, x, (int8_t *)scratch);
            const int32_t offset = op->weight_zero_point ? op->weight_zero_point * sum(column, size) : 0;
#ifdef KWS_HELIUM
            c = in_fours(op, column, size, offset, way, output);
#else
            c = 0;
#endif
            for (; c < w->out_c; c++) {
                const int32_t acc = kws_dot(kws_sum(op->bias[c], -offset), column, op->weight + c * size, size);
                output[c] = kws_requantize(&op->requant, c, acc);
            }
        }
    }
}

#endif
