/* SPDX-License-Identifier: Apache-2.0 */
/* Convolution and fully connected: bias + sum x w - Zw sum x, with Zx in the bias and the padding filled with Zx. */
#include <string.h>

#include "kws_arm_dsp.h"

#ifdef KWS_ARM_DSP

/* A column is what one output sees, as groups of four int16 in a word of 64 bits: values 0 and 2 in the low half, 1 and
 * 3 in the high half, as kws_even and kws_odd give the weights. Zeros fill the last group. Two columns lie side by side. */
enum { GROUP = 4, COLUMNS = 2 };

static int32_t groups_of(int32_t size)
{
    return (size + GROUP - 1) / GROUP;
}

/* Appends n values, or where `from` is 0 n times `fill`, to a column that holds k; returns k + n. */
static int32_t append(uint64_t *column, int32_t k, const int8_t *from, int32_t fill, int32_t n)
{
    static const int8_t place[GROUP] = {0, 32, 16, 48};
    const int32_t end = k + n;
    for (; from && k % GROUP == 0 && k + GROUP <= end; k += GROUP, from += GROUP) {
        const int32_t word = kws_load4(from);
        column[k / GROUP * COLUMNS] = (uint32_t)kws_even(word) | (uint64_t)(uint32_t)kws_odd(word) << 32;
    }
    for (; k < end; k++) {
        const uint64_t value = (uint64_t)((from ? *from++ : fill) & 0xffff) << place[k % GROUP];
        uint64_t *group = &column[k / GROUP * COLUMNS];
        *group = k % GROUP ? *group | value : value;
    }
    return k;
}

/* The column of output (y, x) */
static void gather(const kws_affine *op, const int8_t *input, int32_t y, int32_t x, uint64_t *column)
{
    const kws_window *w = &op->window;
    const int32_t top = y * w->stride_h - w->pad_top, left = x * w->stride_w - w->pad_left;
    const int32_t first = kws_first(left), last = kws_last(left, w->kernel_w, w->in_w);
    int32_t i, k = 0;
    for (i = top; i < top + w->kernel_h; i++) {
        if (i < 0 || i >= w->in_h) {
            k = append(column, k, 0, op->input_zero_point, w->kernel_w * w->in_c);
        } else {
            k = append(column, k, 0, op->input_zero_point, first * w->in_c);
            k = append(column, k, input + (i * w->in_w + left + first) * w->in_c, 0, (last - first) * w->in_c);
            k = append(column, k, 0, op->input_zero_point, (w->kernel_w - last) * w->in_c);
        }
    }
}

static int32_t sum(const uint64_t *column, int32_t groups)
{
    int32_t acc = 0, i;
    for (i = 0; i < groups; i++, column += COLUMNS)
        acc = __smlad((int32_t)(*column >> 32), 0x10001, __smlad((int32_t)*column, 0x10001, acc));
    return acc;
}

/* The last n < 4 weights of a row, and zeros */
static int32_t load_rest(const int8_t *from, int32_t n)
{
    int8_t four[GROUP] = {0, 0, 0, 0};
    memcpy(four, from, (size_t)n);
    return kws_load4(four);
}

/* The sums of two columns and two rows of weights: [column][row]. They are bounded in any order of adding. */
typedef struct {
    int32_t of[2][2];
} square;

/* Adds the products of one group. Written out because compilers keep more values at once than there are registers: here
 * the first column is loaded twice, and 17 instructions make 16 products. */
static inline void multiply_group(square *sums, const uint64_t *x, int32_t word0, int32_t word1)
{
    int32_t even, odd, x_even, x_odd;
    __asm__("sxtb16 %[even], %[word0]\n\t"
            "sxtb16 %[odd], %[word0], ror #8\n\t"
            "ldrd %[x_even], %[x_odd], [%[x]]\n\t"
            "smlad %[s00], %[even], %[x_even], %[s00]\n\t"
            "smlad %[s00], %[odd], %[x_odd], %[s00]\n\t"
            "ldrd %[x_even], %[x_odd], [%[x], #8]\n\t"
            "smlad %[s10], %[even], %[x_even], %[s10]\n\t"
            "smlad %[s10], %[odd], %[x_odd], %[s10]\n\t"
            "sxtb16 %[even], %[word1]\n\t"
            "sxtb16 %[odd], %[word1], ror #8\n\t"
            "smlad %[s11], %[even], %[x_even], %[s11]\n\t"
            "smlad %[s11], %[odd], %[x_odd], %[s11]\n\t"
            "ldrd %[x_even], %[x_odd], [%[x]]\n\t"
            "smlad %[s01], %[even], %[x_even], %[s01]\n\t"
            "smlad %[s01], %[odd], %[x_odd], %[s01]"
            : [s00] "+r"(sums->of[0][0]), [s01] "+r"(sums->of[0][1]), [s10] "+r"(sums->of[1][0]),
              [s11] "+r"(sums->of[1][1]), [even] "=&r"(even), [odd] "=&r"(odd), [x_even] "=&r"(x_even), [x_odd] "=&r"(x_odd)
            : [x] "r"(x), [word0] "r"(word0), [word1] "r"(word1), "m"(x[0]), "m"(x[1]));
}

/* All channels of two positions, two at a time; where their number is odd, the last of them twice. */
static void two_positions(const kws_affine *op, const uint64_t *columns, int32_t size, int8_t *out0, int8_t *out1, int fast)
{
    const int32_t channels = op->window.out_c, groups = size / GROUP, rest = size % GROUP;
    const int32_t zw = op->weight_zero_point;
    const int32_t offset0 = zw ? zw * sum(columns, groups_of(size)) : 0;
    const int32_t offset1 = zw ? zw * sum(columns + 1, groups_of(size)) : 0;
    const int8_t *w0, *w1 = op->weight;
    int32_t c;
    for (c = 0; c < channels; c += 2) {
        const int32_t c1 = c + 1 < channels ? c + 1 : c;
        const uint64_t *x = columns;
        int32_t n;
        square sums;
        w0 = w1;
        w1 += c1 == c ? 0 : size;
        sums.of[0][0] = op->bias[c] - offset0;
        sums.of[0][1] = op->bias[c1] - offset0;
        sums.of[1][0] = op->bias[c] - offset1;
        sums.of[1][1] = op->bias[c1] - offset1;
        for (n = groups; n > 0; n--, x += COLUMNS, w0 += GROUP, w1 += GROUP)
            multiply_group(&sums, x, kws_load4(w0), kws_load4(w1));
        if (rest) {
            multiply_group(&sums, x, load_rest(w0, rest), load_rest(w1, rest));
            w1 += rest;
        }
        if (fast) {
            const kws_fast_requant r0 = kws_fast_requant_of(&op->requant, c);
            const kws_fast_requant r1 = kws_fast_requant_of(&op->requant, c1);
            const int8_t y00 = kws_fast_requantize(r0, sums.of[0][0]), y01 = kws_fast_requantize(r1, sums.of[0][1]);
            const int8_t y10 = kws_fast_requantize(r0, sums.of[1][0]), y11 = kws_fast_requantize(r1, sums.of[1][1]);
            out0[c] = y00, out0[c1] = y01, out1[c] = y10, out1[c1] = y11;
        } else {
            out0[c] = kws_requantize(&op->requant, c, sums.of[0][0]);
            out0[c1] = kws_requantize(&op->requant, c1, sums.of[0][1]);
            out1[c] = kws_requantize(&op->requant, c, sums.of[1][0]);
            out1[c1] = kws_requantize(&op->requant, c1, sums.of[1][1]);
        }
    }
}

/* Two positions at a time; where their number is odd, the last of them twice. */
void kws_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const int32_t size = w->kernel_h * w->kernel_w * w->in_c, positions = w->out_h * w->out_w;
    const int fast = kws_is_fast(&op->requant, w->out_c);
    uint64_t *columns = (uint64_t *)scratch;
    int32_t p;
    (void)input2;
    for (p = 0; p < positions; p += 2) {
        const int32_t q = p + 1 < positions ? p + 1 : p;
        gather(op, input, p / w->out_w, p % w->out_w, columns);
        gather(op, input, q / w->out_w, q % w->out_w, columns + 1);
        two_positions(op, columns, size, output + p * w->out_c, output + q * w->out_c, fast);
    }
    if (fast)
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
            memset(to, op->input_zero_point, before);
            memcpy(to + before, input + i * row + (left + first) * w->in_c, inside);
            memset(to + before + inside, op->input_zero_point, size - before - inside);
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

#ifdef KWS_ARM_DSP

/* Two outputs of two channels: [position][channel] */
typedef struct {
    int32_t acc[2][2];
} square;

/* n int8 as int16: of every four, 0 and 2, then 1 and 3, as kws_even and kws_odd give the weights; the rest in order.
 * `from` may be the second half of `to`: a group is read before it is written. */
static void expand(const int8_t *from, int16_t *to, int32_t n)
{
    for (; n >= 4; n -= 4, from += 4, to += 4) {
        const int32_t word = kws_load4(from);
        kws_store_pair(to, kws_even(word));
        kws_store_pair(to + 2, kws_odd(word));
    }
    for (; n > 0; n--)
        *to++ = *from++;
}

/* Adds the products of two columns and two rows of weights. Sums are bounded in any order (Graph.check). */
static inline square dot2x2(square sums, const int16_t *x0, const int16_t *x1, const int8_t *w0, const int8_t *w1, int32_t n)
{
    int32_t a = sums.acc[0][0], b = sums.acc[0][1], c = sums.acc[1][0], d = sums.acc[1][1];
    const int8_t *end = w0 + (n & ~3);
    while (w0 < end) {
        const int32_t word0 = kws_load4(w0), word1 = kws_load4(w1);
        const int32_t even0 = kws_even(word0), odd0 = kws_odd(word0), even1 = kws_even(word1), odd1 = kws_odd(word1);
        const int32_t x0_even = kws_load_pair(x0), x0_odd = kws_load_pair(x0 + 2);
        const int32_t x1_even = kws_load_pair(x1), x1_odd = kws_load_pair(x1 + 2);
        a = __smlad(even0, x0_even, a);
        b = __smlad(even1, x0_even, b);
        c = __smlad(even0, x1_even, c);
        d = __smlad(even1, x1_even, d);
        a = __smlad(odd0, x0_odd, a);
        b = __smlad(odd1, x0_odd, b);
        c = __smlad(odd0, x1_odd, c);
        d = __smlad(odd1, x1_odd, d);
        w0 += 4, w1 += 4, x0 += 4, x1 += 4;
    }
    for (end += n & 3; w0 < end; w0++, w1++, x0++, x1++) {
        a += *w0 * *x0;
        b += *w1 * *x0;
        c += *w0 * *x1;
        d += *w1 * *x1;
    }
    sums.acc[0][0] = a, sums.acc[0][1] = b, sums.acc[1][0] = c, sums.acc[1][1] = d;
    return sums;
}

/* Outputs two by two positions and channels; where their number is odd, the last of them twice. */
void kws_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const int32_t size = w->kernel_h * w->kernel_w * w->in_c, positions = w->out_h * w->out_w;
    const int fast = kws_is_fast(&op->requant, w->out_c);
    int16_t *columns[2];
    int32_t position, c, i;
    (void)input2;
    columns[0] = (int16_t *)scratch;
    columns[1] = columns[0] + (size + 3) / 4 * 4;
    for (position = 0; position < positions; position += 2) {
        int8_t *out[2];
        int32_t offset[2];
        for (i = 0; i < 2; i++) {
            const int32_t p = position + i < positions ? position + i : position;
            const int8_t *column = column_of(op, input, p / w->out_w, p % w->out_w, (int8_t *)columns[i] + size);
            offset[i] = op->weight_zero_point ? op->weight_zero_point * sum(column, size) : 0;
            expand(column, columns[i], size);
            out[i] = output + p * w->out_c;
        }
        for (c = 0; c < w->out_c; c += 2) {
            const int32_t c1 = c + 1 < w->out_c ? c + 1 : c;
            square sums;
            sums.acc[0][0] = op->bias[c] - offset[0];
            sums.acc[0][1] = op->bias[c1] - offset[0];
            sums.acc[1][0] = op->bias[c] - offset[1];
            sums.acc[1][1] = op->bias[c1] - offset[1];
            sums = dot2x2(sums, columns[0], columns[1], op->weight + c * size, op->weight + c1 * size, size);
            if (fast) {
                const kws_fast_requant r0 = kws_fast_requant_of(&op->requant, c);
                const kws_fast_requant r1 = kws_fast_requant_of(&op->requant, c1);
                out[0][c] = kws_fast_requantize(r0, sums.acc[0][0]);
                out[1][c] = kws_fast_requantize(r0, sums.acc[1][0]);
                out[0][c1] = kws_fast_requantize(r1, sums.acc[0][1]);
                out[1][c1] = kws_fast_requantize(r1, sums.acc[1][1]);
            } else {
                out[0][c] = kws_requantize(&op->requant, c, sums.acc[0][0]);
                out[1][c] = kws_requantize(&op->requant, c, sums.acc[1][0]);
                out[0][c1] = kws_requantize(&op->requant, c1, sums.acc[0][1]);
                out[1][c1] = kws_requantize(&op->requant, c1, sums.acc[1][1]);
            }
        }
    }
    if (fast)
        kws_clamp_all(&op->requant, output, positions * w->out_c);
}

#else

static int32_t dot(int32_t acc, const int8_t *a, const int8_t *b, int32_t n)
{
    int32_t i;
    for (i = 0; i < n; i++)
        acc = kws_sum(acc, a[i] * b[i]);
    return acc;
}

void kws_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const int32_t size = w->kernel_h * w->kernel_w * w->in_c;
    int32_t y, x, c;
    (void)input2;
    for (y = 0; y < w->out_h; y++) {
        for (x = 0; x < w->out_w; x++) {
            const int8_t *column = column_of(op, input, y, x, (int8_t *)scratch);
            const int32_t offset = op->weight_zero_point ? op->weight_zero_point * sum(column, size) : 0;
            for (c = 0; c < w->out_c; c++) {
                const int32_t acc = dot(kws_sum(op->bias[c], -offset), column, op->weight + c * size, size);
                *output++ = kws_requantize(&op->requant, c, acc);
            }
        }
    }
}

#endif

#endif
