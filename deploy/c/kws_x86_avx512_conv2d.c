/* SPDX-License-Identifier: Apache-2.0 */
/* Convolution and fully connected: four neighbours of an input are a lane's four products */
#include "kws_x86_avx512.h"

#ifdef KWS_X86

enum { MOST_ROWS = 8 };

/* Where dword i of `narrow` comes from in memory: vector v of 128-bit lane q lies at 4 q + v. By the number of vectors
 * of one output it belongs at q vectors + v; [0]: of four outputs of one vector at 4 v + q. */
const int32_t kws_avx512_compact[VECTORS + 1][LANES] = {
    {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15},
    {0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60},
    {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29},
    {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 20},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
};

/* The place among four channels of lane r: `requantize16` and the packs behind it bring them in order */
static int32_t place_of(int32_t r, int way)
{
    return way == HIGH ? r : r == 1 ? 2 : r == 2 ? 1 : r;
}

/* The channel in lane `lane` of vector `vector` of a block with `vectors` vectors */
static int32_t channel_of(int32_t vectors, int32_t vector, int32_t lane, int way)
{
    return (lane / 4 * vectors + vector) * 4 + place_of(lane % 4, way);
}

size_t kws_avx512_conv2d_packed_size(const void *op_)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_padded p = kws_padded_of(&op->window);
    const size_t groups = (size_t)(p.n_segments * ((p.segment + 3) / 4));
    const size_t blocks = (size_t)blocks_of(op->window.out_c);
    return kws_pack_aligned(sizeof(packed_conv2d)) + 2 * kws_pack_aligned(groups * 4)
           + blocks * (groups * BLOCK * 4 + BLOCK * 4 + VECTORS * sizeof(requant16));
}

void kws_avx512_conv2d_pack(void *op_, void *packed)
{
    kws_affine *op = (kws_affine *)op_;
    const kws_window *w = &op->window;
    packed_conv2d *to = (packed_conv2d *)packed;
    const kws_padded p = kws_padded_of(w);
    const int32_t per_segment = (p.segment + 3) / 4, size = p.segment * p.n_segments;
    const int32_t blocks = blocks_of(w->out_c);
    int8_t *at = (int8_t *)packed + kws_pack_aligned(sizeof *to);
    int32_t *offsets, *ones, *bias, s, g, i, block;
    requant16 *requant;
    int8_t *weights;
    memset(packed, 0, kws_avx512_conv2d_packed_size(op));
    to->padded = p;
    to->way = way_of(op);
    to->groups = p.n_segments * per_segment;
    to->offsets = offsets = (int32_t *)(void *)at;
    at += kws_pack_aligned((size_t)to->groups * 4);
    to->ones = ones = (int32_t *)(void *)at;
    at += kws_pack_aligned((size_t)to->groups * 4);
    to->requant = requant = (requant16 *)(void *)at;
    at += (size_t)(blocks * VECTORS) * sizeof(requant16);
    to->bias = bias = (int32_t *)(void *)at;
    at += (size_t)(blocks * BLOCK) * 4;
    to->weights = weights = at;
    for (s = 0; s < p.n_segments; s++) {
        for (g = 0; g < per_segment; g++) {
            const int32_t inside = p.segment - 4 * g < 4 ? p.segment - 4 * g : 4;
            offsets[s * per_segment + g] = s * p.w * w->in_c + 4 * g;
            memset(ones + s * per_segment + g, 1, (size_t)inside);
        }
    }
    for (block = 0; block < blocks; block++) {
        const int32_t vectors = vectors_of(w->out_c, block);
        int32_t vector, lane;
        for (vector = 0; vector < vectors; vector++) {
            for (lane = 0; lane < LANES; lane++) {
                const int32_t channel = block * BLOCK + channel_of(vectors, vector, lane, to->way);
                const int8_t *from = op->weight + channel * size;
                uint32_t sum = 0;
                if (channel >= w->out_c)
                    continue;
                for (i = 0; i < size; i++) {
                    const int32_t group = i / p.segment * per_segment + i % p.segment / 4;
                    weights[((group * vectors + vector) * LANES + lane) * 4 + i % p.segment % 4] = from[i];
                    sum += (uint32_t)(from[i] - op->weight_zero_point);
                }
                bias[vector * LANES + lane] = (int32_t)((uint32_t)op->bias[channel] - 128 * sum);
                pack_requant(requant + vector, lane, &op->requant, channel);
            }
        }
        weights += (size_t)to->groups * (size_t)vectors * LANES * 4;
        bias += BLOCK;
        requant += VECTORS;
    }
    op->packed = packed;
}

INLINE __m512i broadcast(const uint8_t *from)
{
    int32_t four;
    memcpy(&four, from, 4);
    return _mm512_set1_epi32(four);
}

typedef struct {
    int32_t groups, weight_zero_point;
    const int32_t *offsets, *ones;
    const int8_t *weights;
    const int32_t *bias;
    const requant16 *requant;
    __m512i zero, low, high, compact;
    __mmask64 mask;
} conv2d_block;

/* Named variables, not arrays: compilers keep those in registers */
#define EACH_ROW(DO) \
    DO(0) \
    if (rows > 1) { \
        DO(1) \
    } \
    if (rows > 2) { \
        DO(2) DO(3) \
    } \
    if (rows > 4) { \
        DO(4) DO(5) \
    } \
    if (rows > 6) { \
        DO(6) DO(7) \
    }
#define DECLARE(r) __m512i acc##r##0, acc##r##1, acc##r##2, acc##r##3, sum##r = none;
#define BIAS(r) \
    acc##r##0 = bias0; \
    acc##r##1 = bias1; \
    acc##r##2 = bias2; \
    acc##r##3 = bias3;
#define PRODUCTS(r) \
    { \
        const __m512i u = broadcast(from##r + offset); \
        acc##r##0 = _mm512_dpbusd_epi32(acc##r##0, u, weight0); \
        if (vectors > 1) \
            acc##r##1 = _mm512_dpbusd_epi32(acc##r##1, u, weight1); \
        if (vectors > 2) \
            acc##r##2 = _mm512_dpbusd_epi32(acc##r##2, u, weight2); \
        if (vectors > 3) \
            acc##r##3 = _mm512_dpbusd_epi32(acc##r##3, u, weight3); \
        if (affine) \
            sum##r = _mm512_dpbusd_epi32(sum##r, u, ones); \
    }
/* Ends the life of the loop's registers: else gcc 12 spills in each turn what the requantization crowds out */
#define FENCE(r) __asm__("" : "+v"(acc##r##0), "+v"(acc##r##1), "+v"(acc##r##2), "+v"(acc##r##3));
#define EXPAND(r) \
    { \
        const __m512i expanded = _mm512_mullo_epi32(sum##r, _mm512_set1_epi32(b->weight_zero_point)); \
        acc##r##0 = _mm512_sub_epi32(acc##r##0, expanded); \
        acc##r##1 = _mm512_sub_epi32(acc##r##1, expanded); \
        acc##r##2 = _mm512_sub_epi32(acc##r##2, expanded); \
        acc##r##3 = _mm512_sub_epi32(acc##r##3, expanded); \
    }
#define REQUANTIZE(r) \
    acc##r##0 = requantize16(acc##r##0, b->requant, way); \
    if (vectors > 1) \
        acc##r##1 = requantize16(acc##r##1, b->requant + 1, way); \
    if (vectors > 2) \
        acc##r##2 = requantize16(acc##r##2, b->requant + 2, way); \
    if (vectors > 3) \
        acc##r##3 = requantize16(acc##r##3, b->requant + 3, way);
#define STORE(r) \
    { \
        __m512i y = narrow(acc##r##0, acc##r##1, acc##r##2, acc##r##3, b->zero, b->low, b->high, way); \
        if (vectors < VECTORS) \
            y = _mm512_permutexvar_epi32(b->compact, y); \
        _mm512_mask_storeu_epi8(to[r], b->mask, y); \
    }

/* Four outputs that lie side by side, of 16 channels each */
#define STORE_FOUR(at, acc_a, acc_b, acc_c, acc_d) \
    _mm512_storeu_si512(at, _mm512_permutexvar_epi32( \
                                b->compact, narrow(acc_a, acc_b, acc_c, acc_d, b->zero, b->low, b->high, way)))

/* `rows` outputs, 1, 2 or ROWS, of one block of channels; or, `side_by_side`, 4 or 8 that are 16 channels each */
INLINE void conv2d_tile(const conv2d_block *b, const uint8_t *const *from, int8_t *const *to, int rows, int vectors,
                        int side_by_side, int affine, int way)
{
    const __m512i none = _mm512_setzero_si512();
    const __m512i bias0 = _mm512_load_si512(b->bias), bias1 = _mm512_load_si512(b->bias + LANES);
    const __m512i bias2 = _mm512_load_si512(b->bias + 2 * LANES), bias3 = _mm512_load_si512(b->bias + 3 * LANES);
    const uint8_t *from0 = from[0], *from1 = from[rows > 1 ? 1 : 0], *from2 = from[rows > 2 ? 2 : 0];
    const uint8_t *from3 = from[rows > 2 ? 3 : 0], *from4 = from[rows > 4 ? 4 : 0], *from5 = from[rows > 4 ? 5 : 0];
    const uint8_t *from6 = from[rows > 6 ? 6 : 0], *from7 = from[rows > 6 ? 7 : 0];
    const int8_t *w = b->weights;
    int32_t g;
    DECLARE(0) DECLARE(1) DECLARE(2) DECLARE(3) DECLARE(4) DECLARE(5) DECLARE(6) DECLARE(7)
    EACH_ROW(BIAS)
    for (g = 0; g < b->groups; g++, w += vectors * BLOCK) {
        const int32_t offset = b->offsets[g];
        const __m512i weight0 = _mm512_load_si512(w);
        const __m512i weight1 = vectors > 1 ? _mm512_load_si512(w + BLOCK) : none;
        const __m512i weight2 = vectors > 2 ? _mm512_load_si512(w + 2 * BLOCK) : none;
        const __m512i weight3 = vectors > 3 ? _mm512_load_si512(w + 3 * BLOCK) : none;
        const __m512i ones = affine ? _mm512_set1_epi32(b->ones[g]) : none;
        EACH_ROW(PRODUCTS)
    }
    EACH_ROW(FENCE)
    if (affine) {
        EACH_ROW(EXPAND)
    }
    EACH_ROW(REQUANTIZE)
    if (side_by_side) {
        STORE_FOUR(to[0], acc00, acc10, acc20, acc30);
        if (rows > 4)
            STORE_FOUR(to[4], acc40, acc50, acc60, acc70);
    } else {
        EACH_ROW(STORE)
    }
}

#define TILE(rows, vectors, side_by_side) \
    (affine ? (way == TFLM ? conv2d_tile(b, from, to, rows, vectors, side_by_side, 1, TFLM) \
               : way == SINGLE ? conv2d_tile(b, from, to, rows, vectors, side_by_side, 1, SINGLE) \
                               : conv2d_tile(b, from, to, rows, vectors, side_by_side, 1, HIGH)) \
            : (way == TFLM ? conv2d_tile(b, from, to, rows, vectors, side_by_side, 0, TFLM) \
               : way == SINGLE ? conv2d_tile(b, from, to, rows, vectors, side_by_side, 0, SINGLE) \
                               : conv2d_tile(b, from, to, rows, vectors, side_by_side, 0, HIGH)))
#define TILES(rows) \
    switch (vectors) { \
    case 1: TILE(rows, 1, 0); break; \
    case 2: TILE(rows, 2, 0); break; \
    case 3: TILE(rows, 3, 0); break; \
    default: TILE(rows, 4, 0); break; \
    }

/* `rows` outputs, at most ROWS: those left over in pairs, which share each weight that is loaded */
static TARGET void conv2d_tiles(const conv2d_block *b, const uint8_t *const *from, int8_t *const *to, int rows,
                                int vectors, int affine, int way)
{
    if (rows == ROWS) {
        TILES(ROWS)
        return;
    }
    for (; rows >= 2; rows -= 2, from += 2, to += 2) {
        TILES(2)
    }
    if (rows == 1) {
        TILES(1)
    }
}

/* Of 16 channels: 8 outputs or 4, which lie side by side */
static TARGET void conv2d_side_by_side(const conv2d_block *b, const uint8_t *const *from, int8_t *const *to, int rows,
                                       int affine, int way)
{
    if (rows == 8)
        TILE(8, 1, 1);
    else
        TILE(4, 1, 1);
}

TARGET void kws_avx512_conv2d(
    const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const packed_conv2d *packed = (const packed_conv2d *)op->packed;
    const kws_window *w = &op->window;
    const int32_t pixels = w->out_h * w->out_w, blocks = blocks_of(w->out_c);
    const int32_t row_step = w->stride_h * packed->padded.w * w->in_c, step = w->stride_w * w->in_c;
    const uint8_t *image = (const uint8_t *)scratch;
    const int8_t *weights = packed->weights;
    const int side_by_side = w->out_c == LANES && pixels >= 4, affine = op->weight_zero_point != 0;
    const int32_t rows = !side_by_side ? ROWS : pixels % 8 == 0 ? 8 : 4;
    conv2d_block b;
    int32_t block, i;
    (void)input2;
    copy_padded(op, packed->padded, input, (uint8_t *)scratch);
    b.groups = packed->groups;
    b.weight_zero_point = op->weight_zero_point;
    b.offsets = packed->offsets;
    b.ones = packed->ones;
    b.zero = _mm512_set1_epi16((short)op->requant.zero_point);
    b.low = _mm512_set1_epi8((char)op->requant.activation_min);
    b.high = _mm512_set1_epi8((char)op->requant.activation_max);
    for (block = 0; block < blocks; block++) {
        const int32_t vectors = vectors_of(w->out_c, block);
        const int32_t channels = w->out_c - block * BLOCK < BLOCK ? w->out_c - block * BLOCK : BLOCK;
        const uint8_t *row = image;
        int32_t x = 0, n = 0;
        const uint8_t *from[MOST_ROWS];
        int8_t *to[MOST_ROWS];
        b.weights = weights;
        b.bias = packed->bias + block * BLOCK;
        b.requant = packed->requant + block * VECTORS;
        b.mask = channels == BLOCK ? ~UINT64_C(0) : (UINT64_C(1) << channels) - 1;
        b.compact = _mm512_loadu_si512(kws_avx512_compact[side_by_side ? 0 : vectors]);
        for (i = 0; i < pixels; i++) {
            from[n] = row + x * step;
            to[n] = output + i * w->out_c + block * BLOCK;
            if (++x == w->out_w) {
                x = 0;
                row += row_step;
            }
            if (++n == rows) {
                if (side_by_side)
                    conv2d_side_by_side(&b, from, to, rows, affine, packed->way);
                else
                    conv2d_tiles(&b, from, to, ROWS, vectors, affine, packed->way);
                n = 0;
            }
        }
        b.compact = _mm512_loadu_si512(kws_avx512_compact[vectors]);
        conv2d_tiles(&b, from, to, n, vectors, affine, packed->way);
        weights += (size_t)packed->groups * (size_t)vectors * LANES * 4;
    }
}

#else
typedef int kws_no_avx512_conv2d;
#endif
