/* SPDX-License-Identifier: Apache-2.0 */
/* Depthwise: four inputs of a kernel's column are a lane's four products, zero weights below its last row */
#include "kws_x86_avx512.h"

#ifdef KWS_X86

typedef struct {
    kws_padded padded;
    int32_t way;
    int32_t groups;           /* of four rows of the kernel */
    const int8_t *weights;    /* (blocks, kernel_w, groups, VECTORS, 16, 4) */
    const int8_t *lower;      /* the same one row lower, where `shares_rows` */
    const int32_t *bias;      /* (blocks, VECTORS, 16) */
    const requant16 *requant; /* (blocks, VECTORS) */
} packed_depthwise;

/* Whether two rows of outputs can be made at once */
static inline int shares_rows(const kws_window *w)
{
    return w->kernel_w == 3 && w->kernel_h <= 3 && w->stride_w == 1 && w->stride_h == 1;
}

size_t kws_avx512_depthwise_packed_size(const void *op_)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const size_t blocks = (size_t)blocks_of(w->out_c), groups = (size_t)(w->kernel_h + 3) / 4;
    if (w->in_c != w->out_c || op->weight_zero_point != 0)
        return 0;
    return kws_pack_aligned(sizeof(packed_depthwise))
           + blocks * ((size_t)w->kernel_w * groups * BLOCK * 4 + BLOCK * 4 + VECTORS * sizeof(requant16))
           + (shares_rows(w) ? blocks * (size_t)w->kernel_w * BLOCK * 4 : 0);
}

void kws_avx512_depthwise_pack(void *op_, void *packed)
{
    kws_affine *op = (kws_affine *)op_;
    const kws_window *w = &op->window;
    packed_depthwise *to = (packed_depthwise *)packed;
    const int32_t groups = (w->kernel_h + 3) / 4, blocks = blocks_of(w->out_c);
    int8_t *at = (int8_t *)packed + kws_pack_aligned(sizeof *to), *weights, *lower;
    int32_t *bias, c, i, j;
    requant16 *requant;
    memset(packed, 0, kws_avx512_depthwise_packed_size(op));
    to->padded = kws_padded_of(w);
    to->way = way_of(op);
    to->groups = groups;
    to->requant = requant = (requant16 *)(void *)at;
    at += (size_t)(blocks * VECTORS) * sizeof(requant16);
    to->bias = bias = (int32_t *)(void *)at;
    at += (size_t)(blocks * BLOCK) * 4;
    to->weights = weights = at;
    to->lower = lower = shares_rows(w) ? at + blocks * w->kernel_w * BLOCK * 4 : at;
    for (c = 0; c < w->out_c; c++) {
        /* interleaving bytes puts channel 16 q + 4 v + r of a block into lane 4 q + r of vector v */
        const int32_t in_block = c % BLOCK, vector = in_block % 16 / 4, lane = in_block / 16 * 4 + in_block % 4;
        uint32_t sum = 0;
        for (i = 0; i < w->kernel_h; i++) {
            for (j = 0; j < w->kernel_w; j++) {
                const int32_t value = op->weight[(i * w->kernel_w + j) * w->out_c + c];
                const int32_t group = (c / BLOCK * w->kernel_w + j) * groups + i / 4;
                weights[((group * VECTORS + vector) * LANES + lane) * 4 + i % 4] = (int8_t)value;
                if (shares_rows(w))
                    lower[((group * VECTORS + vector) * LANES + lane) * 4 + i + 1] = (int8_t)value;
                sum = sum + (uint32_t)value;
            }
        }
        /* the border is Zx here, so the raw form sum u w needs - (128 + Zx) sum w */
        bias[c / BLOCK * BLOCK + vector * LANES + lane] =
            (int32_t)((uint32_t)op->bias[c] - (uint32_t)(128 + op->input_zero_point) * sum);
        pack_requant(requant + c / BLOCK * VECTORS + vector, lane, &op->requant, c);
    }
    op->packed = packed;
}

/* The inputs of one column of a window, four rows of 64 channels as lanes of four */
typedef struct {
    __m512i v0, v1, v2, v3;
} column;

INLINE column column_at(const uint8_t *from, int32_t row_size, int32_t first, int32_t last, __mmask64 mask)
{
    /* below the last row of the kernel the weight is 0 */
    const __m512i a = _mm512_maskz_loadu_epi8(mask, from + first * row_size);
    const __m512i b = _mm512_maskz_loadu_epi8(mask, from + (first + 1 < last ? first + 1 : last) * row_size);
    const __m512i c = _mm512_maskz_loadu_epi8(mask, from + (first + 2 < last ? first + 2 : last) * row_size);
    const __m512i d = _mm512_maskz_loadu_epi8(mask, from + (first + 3 < last ? first + 3 : last) * row_size);
    const __m512i low_ab = _mm512_unpacklo_epi8(a, b), high_ab = _mm512_unpackhi_epi8(a, b);
    const __m512i low_cd = _mm512_unpacklo_epi8(c, d), high_cd = _mm512_unpackhi_epi8(c, d);
    column to;
    to.v0 = _mm512_unpacklo_epi16(low_ab, low_cd);
    to.v1 = _mm512_unpackhi_epi16(low_ab, low_cd);
    to.v2 = _mm512_unpacklo_epi16(high_ab, high_cd);
    to.v3 = _mm512_unpackhi_epi16(high_ab, high_cd);
    return to;
}

INLINE void multiply(column *acc, column u, const int8_t *weights)
{
    acc->v0 = _mm512_dpbusd_epi32(acc->v0, u.v0, _mm512_load_si512(weights));
    acc->v1 = _mm512_dpbusd_epi32(acc->v1, u.v1, _mm512_load_si512(weights + BLOCK));
    acc->v2 = _mm512_dpbusd_epi32(acc->v2, u.v2, _mm512_load_si512(weights + 2 * BLOCK));
    acc->v3 = _mm512_dpbusd_epi32(acc->v3, u.v3, _mm512_load_si512(weights + 3 * BLOCK));
}

/* What one row of outputs needs, or two, of one block of channels */
typedef struct {
    const kws_window *window;
    const int8_t *weights, *lower;
    const int32_t *bias;
    const requant16 *requant;
    int32_t row_size;
    __m512i zero, low, high;
    __mmask64 mask;
} depthwise_block;

INLINE column depthwise_bias(const depthwise_block *b)
{
    column acc;
    acc.v0 = _mm512_load_si512(b->bias);
    acc.v1 = _mm512_load_si512(b->bias + LANES);
    acc.v2 = _mm512_load_si512(b->bias + 2 * LANES);
    acc.v3 = _mm512_load_si512(b->bias + 3 * LANES);
    return acc;
}

/* Requantizes and stores; interleaved columns have their channels in order, so those that change places change again */
INLINE void depthwise_store(const depthwise_block *b, column acc, int8_t *to, int way)
{
    const __m512i y0 = requantize16(acc.v0, b->requant, way), y1 = requantize16(acc.v1, b->requant + 1, way);
    const __m512i y2 = requantize16(acc.v2, b->requant + 2, way), y3 = requantize16(acc.v3, b->requant + 3, way);
    __m512i y = narrow(y0, y1, y2, y3, b->zero, b->low, b->high, way);
    if (way != HIGH)
        y = _mm512_shuffle_epi8(y, _mm512_set4_epi32(0x0f0d0e0c, 0x0b090a08, 0x07050604, 0x03010200));
    _mm512_mask_storeu_epi8(to, b->mask, y);
}

INLINE void depthwise_pixel(const depthwise_block *b, const uint8_t *from, int8_t *to, int way)
{
    const kws_window *w = b->window;
    const int8_t *weights = b->weights;
    column acc = depthwise_bias(b);
    int32_t i, j;
    for (j = 0; j < w->kernel_w; j++) {
        for (i = 0; i < w->kernel_h; i += 4) {
            multiply(&acc, column_at(from + j * w->in_c, b->row_size, i, w->kernel_h - 1, b->mask), weights);
            weights += VECTORS * BLOCK;
        }
    }
    depthwise_store(b, acc, to, way);
}

/* Neighbours under a kernel of three columns and at most four rows, n <= 3 side by side in each of `rows` <= 2 rows, share
 * n + 2 columns. The second row takes the same four inputs with the weights one place lower, so of those there are at
 * most three rows. */
INLINE void depthwise_neighbours(const depthwise_block *b, const uint8_t *from, int8_t *to, int rows, int n, int way)
{
    const kws_window *w = b->window;
    const int32_t size = VECTORS * BLOCK, last = w->kernel_h - 1 + rows - 1, below = w->out_w * w->out_c;
    column p0 = depthwise_bias(b), p1 = p0, p2 = p0, q0 = p0, q1 = p0, q2 = p0;
#define COLUMN(j) \
    if (j < n + 2) { \
        const column u = column_at(from + j * w->in_c, b->row_size, 0, last, b->mask); \
        if (j < 3) \
            multiply(&p0, u, b->weights + j * size); \
        if (j > 0 && j < 4 && n > 1) \
            multiply(&p1, u, b->weights + (j - 1) * size); \
        if (j > 1 && n > 2) \
            multiply(&p2, u, b->weights + (j - 2) * size); \
        if (j < 3 && rows > 1) \
            multiply(&q0, u, b->lower + j * size); \
        if (j > 0 && j < 4 && rows > 1 && n > 1) \
            multiply(&q1, u, b->lower + (j - 1) * size); \
        if (j > 1 && rows > 1 && n > 2) \
            multiply(&q2, u, b->lower + (j - 2) * size); \
    }
    COLUMN(0) COLUMN(1) COLUMN(2) COLUMN(3) COLUMN(4)
    depthwise_store(b, p0, to, way);
    if (n > 1)
        depthwise_store(b, p1, to + w->out_c, way);
    if (n > 2)
        depthwise_store(b, p2, to + 2 * w->out_c, way);
    if (rows > 1) {
        depthwise_store(b, q0, to + below, way);
        if (n > 1)
            depthwise_store(b, q1, to + below + w->out_c, way);
        if (n > 2)
            depthwise_store(b, q2, to + below + 2 * w->out_c, way);
    }
}

/* A row of outputs, or two */
INLINE void depthwise_three_columns(const depthwise_block *b, const uint8_t *from, int8_t *to, int rows, int way)
{
    const kws_window *w = b->window;
    int32_t x = 0;
    for (; x + 3 <= w->out_w; x += 3)
        depthwise_neighbours(b, from + x * w->in_c, to + x * w->out_c, rows, 3, way);
    if (w->out_w - x == 2)
        depthwise_neighbours(b, from + x * w->in_c, to + x * w->out_c, rows, 2, way);
    else if (w->out_w - x == 1)
        depthwise_neighbours(b, from + x * w->in_c, to + x * w->out_c, rows, 1, way);
}

/* `rows` rows of outputs: two only where `shares_rows` */
INLINE void depthwise_rows(const depthwise_block *b, const uint8_t *from, int8_t *to, int rows, int way)
{
    const kws_window *w = b->window;
    int32_t x;
    if (rows == 2)
        depthwise_three_columns(b, from, to, 2, way);
    else if (w->kernel_w == 3 && w->kernel_h <= 4 && w->stride_w == 1)
        depthwise_three_columns(b, from, to, 1, way);
    else
        for (x = 0; x < w->out_w; x++)
            depthwise_pixel(b, from + x * w->stride_w * w->in_c, to + x * w->out_c, way);
}

TARGET void kws_avx512_depthwise_conv2d(
    const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const packed_depthwise *packed = (const packed_depthwise *)op->packed;
    const kws_window *w = &op->window;
    depthwise_block b;
    int32_t block, y, rows;
    (void)input2;
    copy_padded(op, packed->padded, input, (uint8_t *)scratch);
    b.window = w;
    b.row_size = packed->padded.w * w->in_c;
    b.zero = _mm512_set1_epi16((short)op->requant.zero_point);
    b.low = _mm512_set1_epi8((char)op->requant.activation_min);
    b.high = _mm512_set1_epi8((char)op->requant.activation_max);
    for (block = 0; block < blocks_of(w->out_c); block++) {
        const int32_t channels = w->out_c - block * BLOCK < BLOCK ? w->out_c - block * BLOCK : BLOCK;
        b.mask = channels == BLOCK ? ~UINT64_C(0) : (UINT64_C(1) << channels) - 1;
        b.weights = packed->weights + (size_t)(block * w->kernel_w * packed->groups) * VECTORS * BLOCK;
        b.lower = packed->lower + (size_t)(block * w->kernel_w) * VECTORS * BLOCK;
        b.bias = packed->bias + block * BLOCK;
        b.requant = packed->requant + block * VECTORS;
        for (y = 0; y < w->out_h; y += rows) {
            const uint8_t *from = (const uint8_t *)scratch + y * w->stride_h * b.row_size + block * BLOCK;
            int8_t *to = output + y * w->out_w * w->out_c + block * BLOCK;
            rows = shares_rows(w) && w->out_h - y >= 2 ? 2 : 1;
            if (packed->way == HIGH)
                depthwise_rows(&b, from, to, rows, HIGH);
            else if (packed->way == SINGLE)
                depthwise_rows(&b, from, to, rows, SINGLE);
            else
                depthwise_rows(&b, from, to, rows, TFLM);
        }
    }
}

#else
typedef int kws_no_avx512_depthwise_conv2d;
#endif
