/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512 with VNNI: four products of a uint8 and an int8 a lane and instruction.
 *
 * Inputs are taken as u = x + 128 (the sign bit flipped), copied once with their padding. The bias absorbs the 128:
 * sum x (w - Zw) = sum u w - 128 sum w - Zw sum u + 128 K Zw. Sums wrap modulo 2^32, and their true value fits, so the
 * order does not matter. The bits are those of the portable kernels.
 */
#include "kws_x86.h"

#ifdef KWS_X86
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { ROWS = 6, LANES = 16, VECTORS = 4, BLOCK = LANES * VECTORS };

/* Multiply, round, shift for 16 channels, in 64 bits: [0] of the even lanes, [1] of the odd ones. Where the rule is
 * `single` and every right shift at least 33, M < 1/4, the upper halves of the products are enough: what is added to
 * round has no bit below 2^32, and a shift by `right` is one by 32 and one by the rest. */
typedef struct {
    int32_t high_round[16];
    int32_t high_right[16];
    int64_t multiplier[2][8];
    int64_t round[2][8];
    int64_t right[2][8];
    int64_t half[2][8]; /* of the second rounding, and all below: tflm only */
    int64_t sign[2][8]; /* -1 where the second shift is not 0 */
    int64_t right2[2][8];
} requant16;

enum { HIGH = 0, SINGLE = 1, TFLM = 2 }; /* how `requantize16` goes: HIGH for what is said above */

typedef struct {
    kws_padded padded;
    int32_t way;
    int32_t groups;         /* of four inputs that one output sees */
    const int32_t *offsets; /* (groups) from the first input that an output sees */
    const int32_t *ones;    /* (groups) four bytes: 1 for an input, 0 for what a group reads beyond its segment */
    const int8_t *weights;  /* a block of 64 channels after another: (groups, vectors, 16, 4) */
    const int32_t *bias;    /* (blocks, vectors, 16) */
    const requant16 *requant; /* (blocks, vectors) */
} packed_conv2d;

static int way_of(const kws_affine *op)
{
    const kws_requant *requant = &op->requant;
    int32_t c;
    if (requant->rounding == KWS_TFLM)
        return TFLM;
    for (c = 0; c < (requant->per_channel ? op->window.out_c : 1); c++)
        if (31 - requant->shift[c] < 33 && requant->multiplier[c] != 0)
            return SINGLE;
    return HIGH;
}

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

static int32_t vectors_of(int32_t channels, int32_t block)
{
    const int32_t left = channels - block * BLOCK;
    return left >= BLOCK ? VECTORS : (left + LANES - 1) / LANES;
}

static int32_t blocks_of(int32_t channels)
{
    return (channels + BLOCK - 1) / BLOCK;
}

static void pack_requant(requant16 *to, int32_t lane, const kws_requant *requant, int32_t channel)
{
    const int32_t i = requant->per_channel ? channel : 0;
    const int32_t shift = requant->shift[i], odd = lane % 2, at = lane / 2;
    const int32_t second = requant->rounding == KWS_TFLM && shift < 0 ? -shift : 0;
    const int32_t right = 31 - shift - second;
    to->multiplier[odd][at] = requant->multiplier[i];
    to->right[odd][at] = right;
    to->round[odd][at] = INT64_C(1) << (right - 1);
    to->right2[odd][at] = second;
    to->high_round[lane] = right >= 33 ? INT32_C(1) << (right - 33) : 0;
    to->high_right[lane] = right >= 33 ? right - 32 : 0;
    to->half[odd][at] = second ? INT64_C(1) << (second - 1) : 0;
    to->sign[odd][at] = second ? -1 : 0;
}

/* x M, rounded, in the low halves of 64 bits: of the even lanes of `acc` or, moved down, of the odd ones */
INLINE __m512i scale8(__m512i acc, const requant16 *r, int odd, int way)
{
    const __m512i x = odd ? _mm512_srli_epi64(acc, 32) : acc; /* vpmuldq reads the low halves, with their sign */
    __m512i y = _mm512_mul_epi32(x, _mm512_load_si512(r->multiplier[odd]));
    y = _mm512_add_epi64(y, _mm512_load_si512(r->round[odd]));
    y = _mm512_srav_epi64(y, _mm512_load_si512(r->right[odd]));
    if (way == TFLM) {
        const __m512i sign = _mm512_and_si512(_mm512_srai_epi64(y, 63), _mm512_load_si512(r->sign[odd]));
        y = _mm512_add_epi64(_mm512_add_epi64(y, _mm512_load_si512(r->half[odd])), sign);
        y = _mm512_srav_epi64(y, _mm512_load_si512(r->right2[odd]));
    }
    return y;
}

/* int32 sums of 16 channels -> int32 values before Z. Where both halves of the lanes are needed, they are saturated to
 * int16 on the way: (value, sign) saturated to (int16, sign) is an int32 again, and lanes 1 and 2 of four change places. */
INLINE __m512i requantize16(__m512i acc, const requant16 *r, int way)
{
    if (way == HIGH) {
        const __m512i even = _mm512_mul_epi32(acc, _mm512_load_si512(r->multiplier[0]));
        const __m512i odd = _mm512_mul_epi32(_mm512_srli_epi64(acc, 32), _mm512_load_si512(r->multiplier[1]));
        const __m512i high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
        const __m512i rounded = _mm512_add_epi32(high, _mm512_load_si512(r->high_round));
        return _mm512_srav_epi32(rounded, _mm512_load_si512(r->high_right));
    }
    return _mm512_packs_epi32(scale8(acc, r, 0, way), scale8(acc, r, 1, way));
}

/* What `requantize16` made of 64 channels -> int8 */
INLINE __m512i narrow(__m512i a, __m512i b, __m512i c, __m512i d, __m512i zero, __m512i low, __m512i high)
{
    const __m512i ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
    const __m512i cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero);
    return _mm512_min_epi8(_mm512_max_epi8(_mm512_packs_epi16(ab, cd), low), high);
}

/* u = x + 128 with the border of Zx, and bytes behind it that a last group may read */
static TARGET void copy_padded(const kws_affine *op, kws_padded padded, const int8_t *input, uint8_t *to)
{
    const kws_window *w = &op->window;
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    const int32_t border = op->input_zero_point + 128;
    const int32_t used_h = padded.h - w->pad_top < w->in_h ? padded.h - w->pad_top : w->in_h;
    const int32_t used_w = padded.w - w->pad_left < w->in_w ? padded.w - w->pad_left : w->in_w;
    const int32_t whole = padded.w == w->in_w && w->pad_left == 0;
    const int32_t rows = whole ? 1 : used_h;
    const size_t size = (size_t)(whole ? used_h * used_w * w->in_c : used_w * w->in_c);
    const size_t row = (size_t)(padded.w * w->in_c);
    int32_t y;
    if (padded.h != w->in_h || padded.w != w->in_w)
        memset(to, border, (size_t)padded.h * row);
    to += (size_t)w->pad_top * row + (size_t)(w->pad_left * w->in_c);
    for (y = 0; y < rows; y++) {
        size_t i;
        for (i = 0; i + 64 <= size; i += 64)
            _mm512_storeu_si512(to + i, _mm512_xor_si512(_mm512_loadu_si512(input + i), flip));
        if (i < size) {
            const __mmask64 mask = (UINT64_C(1) << (size - i)) - 1;
            _mm512_mask_storeu_epi8(to + i, mask, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, input + i), flip));
        }
        to += row;
        input += w->in_w * w->in_c;
    }
}

static size_t padded_size(const void *op_)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_padded p = kws_padded_of(&op->window);
    return kws_pack_aligned((size_t)p.h * (size_t)p.w * (size_t)op->window.in_c + 64);
}

static size_t conv2d_packed_size(const void *op_)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_padded p = kws_padded_of(&op->window);
    const size_t groups = (size_t)(p.n_segments * ((p.segment + 3) / 4));
    const size_t blocks = (size_t)blocks_of(op->window.out_c);
    return kws_pack_aligned(sizeof(packed_conv2d)) + 2 * kws_pack_aligned(groups * 4)
           + blocks * (groups * BLOCK * 4 + BLOCK * 4 + VECTORS * sizeof(requant16));
}

static void conv2d_pack(void *op_, void *packed)
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
    memset(packed, 0, conv2d_packed_size(op));
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
        DO(1) DO(2) DO(3) DO(4) DO(5) \
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
        __m512i y = narrow(acc##r##0, acc##r##1, acc##r##2, acc##r##3, b->zero, b->low, b->high); \
        if (vectors < VECTORS) \
            y = _mm512_permutexvar_epi32(b->compact, y); \
        _mm512_mask_storeu_epi8(to[r], b->mask, y); \
    }

/* `rows` outputs, ROWS or 1, of one block of channels */
INLINE void conv2d_tile(const conv2d_block *b, const uint8_t *const *from, int8_t *const *to, int rows, int vectors,
                        int affine, int way)
{
    const __m512i none = _mm512_setzero_si512();
    const __m512i bias0 = _mm512_load_si512(b->bias), bias1 = _mm512_load_si512(b->bias + LANES);
    const __m512i bias2 = _mm512_load_si512(b->bias + 2 * LANES), bias3 = _mm512_load_si512(b->bias + 3 * LANES);
    const uint8_t *from0 = from[0], *from1 = from[rows > 1 ? 1 : 0], *from2 = from[rows > 1 ? 2 : 0];
    const uint8_t *from3 = from[rows > 1 ? 3 : 0], *from4 = from[rows > 1 ? 4 : 0], *from5 = from[rows > 1 ? 5 : 0];
    const int8_t *w = b->weights;
    int32_t g;
    DECLARE(0) DECLARE(1) DECLARE(2) DECLARE(3) DECLARE(4) DECLARE(5)
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
    EACH_ROW(STORE)
}

#define TILE(rows, vectors) \
    (affine ? (way == TFLM ? conv2d_tile(b, from, to, rows, vectors, 1, TFLM) \
               : way == SINGLE ? conv2d_tile(b, from, to, rows, vectors, 1, SINGLE) \
                               : conv2d_tile(b, from, to, rows, vectors, 1, HIGH)) \
            : (way == TFLM ? conv2d_tile(b, from, to, rows, vectors, 0, TFLM) \
               : way == SINGLE ? conv2d_tile(b, from, to, rows, vectors, 0, SINGLE) \
                               : conv2d_tile(b, from, to, rows, vectors, 0, HIGH)))

static TARGET void conv2d_tiles(const conv2d_block *b, const uint8_t *const *from, int8_t *const *to, int rows,
                                int vectors, int affine, int way)
{
    int r;
    if (rows == ROWS) {
        switch (vectors) {
        case 1: TILE(ROWS, 1); return;
        case 2: TILE(ROWS, 2); return;
        case 3: TILE(ROWS, 3); return;
        default: TILE(ROWS, 4); return;
        }
    }
    for (r = 0; r < rows; r++, from++, to++) {
        switch (vectors) {
        case 1: TILE(1, 1); break;
        case 2: TILE(1, 2); break;
        case 3: TILE(1, 3); break;
        default: TILE(1, 4); break;
        }
    }
}

static TARGET void conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const packed_conv2d *packed = (const packed_conv2d *)op->packed;
    const kws_window *w = &op->window;
    const int32_t pixels = w->out_h * w->out_w, blocks = blocks_of(w->out_c);
    const int32_t row_step = w->stride_h * packed->padded.w * w->in_c, step = w->stride_w * w->in_c;
    const uint8_t *image = (const uint8_t *)scratch;
    const int8_t *weights = packed->weights;
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
        int32_t compact[LANES], x = 0, n = 0;
        const uint8_t *from[ROWS];
        int8_t *to[ROWS];
        b.weights = weights;
        b.bias = packed->bias + block * BLOCK;
        b.requant = packed->requant + block * VECTORS;
        b.mask = channels == BLOCK ? ~UINT64_C(0) : (UINT64_C(1) << channels) - 1;
        for (i = 0; i < LANES; i++) /* vector v of 128-bit lane q lies at 4 q + v, and belongs at q vectors + v */
            compact[i] = i / vectors * VECTORS + i % vectors;
        b.compact = _mm512_loadu_si512(compact);
        for (i = 0; i < pixels; i++) {
            from[n] = row + x * step;
            to[n] = output + i * w->out_c + block * BLOCK;
            if (++x == w->out_w) {
                x = 0;
                row += row_step;
            }
            if (++n == ROWS) {
                conv2d_tiles(&b, from, to, ROWS, vectors, op->weight_zero_point != 0, packed->way);
                n = 0;
            }
        }
        conv2d_tiles(&b, from, to, n, vectors, op->weight_zero_point != 0, packed->way);
        weights += (size_t)packed->groups * (size_t)vectors * LANES * 4;
    }
}

/* Depthwise: four inputs of a kernel's column are a lane's four products, zero weights below its last row */
typedef struct {
    kws_padded padded;
    int32_t way;
    int32_t groups;           /* of four rows of the kernel */
    const int8_t *weights;    /* (blocks, kernel_w, groups, VECTORS, 16, 4) */
    const int32_t *bias;      /* (blocks, VECTORS, 16) */
    const requant16 *requant; /* (blocks, VECTORS) */
} packed_depthwise;

static size_t depthwise_packed_size(const void *op_)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    const size_t blocks = (size_t)blocks_of(w->out_c), groups = (size_t)(w->kernel_h + 3) / 4;
    if (w->in_c != w->out_c || op->weight_zero_point != 0)
        return 0;
    return kws_pack_aligned(sizeof(packed_depthwise))
           + blocks * ((size_t)w->kernel_w * groups * BLOCK * 4 + BLOCK * 4 + VECTORS * sizeof(requant16));
}

static void depthwise_pack(void *op_, void *packed)
{
    kws_affine *op = (kws_affine *)op_;
    const kws_window *w = &op->window;
    packed_depthwise *to = (packed_depthwise *)packed;
    const int32_t groups = (w->kernel_h + 3) / 4, blocks = blocks_of(w->out_c);
    int8_t *at = (int8_t *)packed + kws_pack_aligned(sizeof *to), *weights;
    int32_t *bias, c, i, j;
    requant16 *requant;
    memset(packed, 0, depthwise_packed_size(op));
    to->padded = kws_padded_of(w);
    to->way = way_of(op);
    to->groups = groups;
    to->requant = requant = (requant16 *)(void *)at;
    at += (size_t)(blocks * VECTORS) * sizeof(requant16);
    to->bias = bias = (int32_t *)(void *)at;
    at += (size_t)(blocks * BLOCK) * 4;
    to->weights = weights = at;
    for (c = 0; c < w->out_c; c++) {
        /* interleaving bytes puts channel 16 q + 4 v + r of a block into lane 4 q + r of vector v */
        const int32_t in_block = c % BLOCK, vector = in_block % 16 / 4, lane = in_block / 16 * 4 + in_block % 4;
        uint32_t sum = 0;
        for (i = 0; i < w->kernel_h; i++) {
            for (j = 0; j < w->kernel_w; j++) {
                const int32_t value = op->weight[(i * w->kernel_w + j) * w->out_c + c];
                const int32_t group = (c / BLOCK * w->kernel_w + j) * groups + i / 4;
                weights[((group * VECTORS + vector) * LANES + lane) * 4 + i % 4] = (int8_t)value;
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

/* What a row of outputs needs, of one block of channels */
typedef struct {
    const kws_window *window;
    const int8_t *weights;
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
    __m512i y = narrow(y0, y1, y2, y3, b->zero, b->low, b->high);
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

/* Three neighbours under a kernel of three columns and at most four rows: they share five columns */
INLINE void depthwise_three(const depthwise_block *b, const uint8_t *from, int8_t *to, int way)
{
    const kws_window *w = b->window;
    const int32_t size = VECTORS * BLOCK, last = w->kernel_h - 1;
    column p = depthwise_bias(b), q = p, r = p, u;
    u = column_at(from, b->row_size, 0, last, b->mask);
    multiply(&p, u, b->weights);
    u = column_at(from + w->in_c, b->row_size, 0, last, b->mask);
    multiply(&p, u, b->weights + size);
    multiply(&q, u, b->weights);
    u = column_at(from + 2 * w->in_c, b->row_size, 0, last, b->mask);
    multiply(&p, u, b->weights + 2 * size);
    multiply(&q, u, b->weights + size);
    multiply(&r, u, b->weights);
    u = column_at(from + 3 * w->in_c, b->row_size, 0, last, b->mask);
    multiply(&q, u, b->weights + 2 * size);
    multiply(&r, u, b->weights + size);
    u = column_at(from + 4 * w->in_c, b->row_size, 0, last, b->mask);
    multiply(&r, u, b->weights + 2 * size);
    depthwise_store(b, p, to, way);
    depthwise_store(b, q, to + w->out_c, way);
    depthwise_store(b, r, to + 2 * w->out_c, way);
}

INLINE void depthwise_row(const depthwise_block *b, const uint8_t *from, int8_t *to, int way)
{
    const kws_window *w = b->window;
    int32_t x = 0;
    if (w->kernel_w == 3 && w->kernel_h <= 4 && w->stride_w == 1)
        for (; x + 3 <= w->out_w; x += 3)
            depthwise_three(b, from + x * w->in_c, to + x * w->out_c, way);
    for (; x < w->out_w; x++)
        depthwise_pixel(b, from + x * w->stride_w * w->in_c, to + x * w->out_c, way);
}

static TARGET void depthwise_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output,
                                    void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const packed_depthwise *packed = (const packed_depthwise *)op->packed;
    const kws_window *w = &op->window;
    depthwise_block b;
    int32_t block, y;
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
        b.bias = packed->bias + block * BLOCK;
        b.requant = packed->requant + block * VECTORS;
        for (y = 0; y < w->out_h; y++) {
            const uint8_t *from = (const uint8_t *)scratch + y * w->stride_h * b.row_size + block * BLOCK;
            int8_t *to = output + y * w->out_w * w->out_c + block * BLOCK;
            if (packed->way == HIGH)
                depthwise_row(&b, from, to, HIGH);
            else if (packed->way == SINGLE)
                depthwise_row(&b, from, to, SINGLE);
            else
                depthwise_row(&b, from, to, TFLM);
        }
    }
}

/* Add: what `kws_scale` does, on 16 values of one multiplier */
typedef struct {
    __m512i multiplier, round, half, sign;
    __m128i right, right2;
} scale_all;

INLINE scale_all scale_all_of(int32_t multiplier, int32_t shift, int32_t rounding)
{
    const int32_t second = rounding == KWS_TFLM && shift < 0 ? -shift : 0;
    const int32_t right = 31 - shift - second;
    scale_all s;
    s.multiplier = _mm512_set1_epi64(multiplier);
    s.round = _mm512_set1_epi64(1LL << (right - 1));
    s.right = _mm_cvtsi32_si128(right);
    s.half = _mm512_set1_epi64(second ? 1LL << (second - 1) : 0);
    s.sign = _mm512_set1_epi64(second ? -1 : 0);
    s.right2 = _mm_cvtsi32_si128(second);
    return s;
}

INLINE __m512i scale_half(__m512i x, const scale_all *s)
{
    __m512i y = _mm512_add_epi64(_mm512_mul_epi32(x, s->multiplier), s->round);
    y = _mm512_sra_epi64(y, s->right);
    y = _mm512_add_epi64(_mm512_add_epi64(y, s->half), _mm512_and_si512(_mm512_srai_epi64(y, 63), s->sign));
    return _mm512_sra_epi64(y, s->right2);
}

INLINE __m512i scale16(__m512i x, const scale_all *s)
{
    const __m512i even = scale_half(x, s), odd = scale_half(_mm512_srli_epi64(x, 32), s);
    return _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
}

INLINE __m512i common16(const int8_t *from, __mmask16 mask, __m512i zero, const scale_all *s)
{
    const __m512i q = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, from));
    return scale16(_mm512_slli_epi32(_mm512_sub_epi32(q, zero), 20), s);
}

static TARGET void add(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_add_op *op = (const kws_add_op *)op_;
    const kws_requant *requant = &op->requant;
    const scale_all a = scale_all_of(op->multiplier, op->shift, requant->rounding);
    const scale_all b = scale_all_of(op->multiplier2, op->shift2, requant->rounding);
    const scale_all c = scale_all_of(requant->multiplier[0], requant->shift[0], requant->rounding);
    const __m512i zero_a = _mm512_set1_epi32(op->input_zero_point), zero_b = _mm512_set1_epi32(op->input2_zero_point);
    const __m512i zero = _mm512_set1_epi32(requant->zero_point);
    const __m512i low = _mm512_set1_epi32(requant->activation_min - requant->zero_point);
    const __m512i high = _mm512_set1_epi32(requant->activation_max - requant->zero_point);
    int32_t i;
    (void)scratch;
    for (i = 0; i < op->size; i += 16) {
        const __mmask16 mask = (__mmask16)(op->size - i >= 16 ? 0xFFFF : (1 << (op->size - i)) - 1);
        __m512i y = _mm512_add_epi32(common16(input + i, mask, zero_a, &a), common16(input2 + i, mask, zero_b, &b));
        y = _mm512_min_epi32(_mm512_max_epi32(scale16(y, &c), low), high);
        _mm_mask_storeu_epi8(output + i, mask, _mm512_cvtepi32_epi8(_mm512_add_epi32(y, zero)));
    }
}

/* Nothing of it is laid out anew */
static size_t always_suits(const void *op)
{
    (void)op;
    return 1;
}

const kws_fast_path kws_avx512_paths[] = {
    {"add avx512", kws_add, add, always_suits, kws_pack_nothing, kws_no_scratch},
    {"conv2d avx512-vnni", kws_conv2d, conv2d, conv2d_packed_size, conv2d_pack, padded_size},
    {"depthwise_conv2d avx512-vnni", kws_depthwise_conv2d, depthwise_conv2d, depthwise_packed_size, depthwise_pack,
     padded_size},
};
const size_t kws_n_avx512_paths = sizeof kws_avx512_paths / sizeof *kws_avx512_paths;
#else
typedef int kws_no_avx512;
#endif
