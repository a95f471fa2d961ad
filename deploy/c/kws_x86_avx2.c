/* SPDX-License-Identifier: Apache-2.0 */
/* AVX2: two products of int16 a lane and instruction (vpmaddwd), which cannot saturate as those of int8 pairs do.
 *
 * Inputs are widened to int16 and copied once with their padding. Sums wrap modulo 2^32, and their true value fits, so
 * the order does not matter. The bits are those of the portable kernels.
 */
#include "kws_x86_avx2.h"

#ifdef KWS_X86
#include <string.h>

enum { ROWS = 5, LANES = 8, VECTORS = 2, BLOCK = LANES * VECTORS };

/* Multiply, round, shift for 8 channels, in 64 bits: [0] of the even lanes, [1] of the odd ones. Where the rule is
 * `single` and every right shift at least 33, M < 1/4, the upper halves of the products are enough: what is added to
 * round has no bit below 2^32, and a shift by `right` is one by 32 and one by the rest. */
typedef struct {
    int32_t high_round[8];
    int32_t high_right[8];
    int64_t multiplier[2][4];
    int64_t round[2][4];
    int64_t right[2][4];
    int64_t offset[2][4];  /* 2^(63 - right): an arithmetic shift is a logical one of x + 2^63, less this */
    int64_t half[2][4];    /* of the second rounding, and all below: tflm only */
    int64_t sign[2][4];    /* -1 where the second shift is not 0 */
    int64_t right2[2][4];
    int64_t offset2[2][4];
} requant8;

enum { HIGH = 0, SINGLE = 1, TFLM = 2 }; /* how `requantize8` goes: HIGH for what is said above */

typedef struct {
    kws_padded padded;
    int32_t way;
    int32_t groups;         /* of two inputs that one output sees */
    const int32_t *offsets; /* (groups) from the first input that an output sees */
    const int16_t *weights; /* a block of 16 channels after another: (groups, VECTORS, 8, 2), w - Zw */
    const int32_t *bias;    /* (blocks, VECTORS, 8) */
    const requant8 *requant; /* (blocks, VECTORS) */
} packed_affine;

static int32_t blocks_of(int32_t channels)
{
    return (channels + BLOCK - 1) / BLOCK;
}

static int32_t way_of(const kws_affine *op)
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

static void pack_requant(requant8 *to, int32_t lane, const kws_requant *requant, int32_t channel)
{
    const int32_t i = requant->per_channel ? channel : 0;
    const int32_t shift = requant->shift[i], odd = lane % 2, at = lane / 2;
    const int32_t second = requant->rounding == KWS_TFLM && shift < 0 ? -shift : 0;
    const int32_t right = 31 - shift - second;
    to->multiplier[odd][at] = requant->multiplier[i];
    to->right[odd][at] = right;
    to->round[odd][at] = INT64_C(1) << (right - 1);
    to->offset[odd][at] = (int64_t)(UINT64_C(1) << (63 - right));
    to->high_round[lane] = right >= 33 ? INT32_C(1) << (right - 33) : 0;
    to->high_right[lane] = right >= 33 ? right - 32 : 0;
    to->right2[odd][at] = second;
    to->half[odd][at] = second ? INT64_C(1) << (second - 1) : 0;
    to->sign[odd][at] = second ? -1 : 0;
    to->offset2[odd][at] = (int64_t)(UINT64_C(1) << (63 - second));
}

INLINE __m256i load(const void *from)
{
    return _mm256_load_si256((const __m256i *)from);
}

/* x >> right with the sign */
INLINE __m256i shift_right(__m256i x, const int64_t *right, const int64_t *offset)
{
    const __m256i flip = _mm256_set1_epi64x(INT64_MIN);
    return _mm256_sub_epi64(_mm256_srlv_epi64(_mm256_xor_si256(x, flip), load(right)), load(offset));
}

/* x M, rounded, in 64 bits of which the lower halves are enough: of the even lanes of `acc` or of the odd ones */
INLINE __m256i scale4(__m256i acc, const requant8 *r, int odd, int way)
{
    const __m256i x = odd ? _mm256_srli_epi64(acc, 32) : acc; /* vpmuldq reads the low halves, with their sign */
    __m256i y = _mm256_add_epi64(_mm256_mul_epi32(x, load(r->multiplier[odd])), load(r->round[odd]));
    y = shift_right(y, r->right[odd], r->offset[odd]);
    if (way == TFLM) {
        const __m256i sign = _mm256_and_si256(_mm256_cmpgt_epi64(_mm256_setzero_si256(), y), load(r->sign[odd]));
        y = _mm256_add_epi64(_mm256_add_epi64(y, load(r->half[odd])), sign);
        y = shift_right(y, r->right2[odd], r->offset2[odd]);
    }
    return y;
}

/* int32 sums of 8 channels -> int32 values before Z */
INLINE __m256i requantize8(__m256i acc, const requant8 *r, int way)
{
    if (way == HIGH) {
        const __m256i even = _mm256_mul_epi32(acc, load(r->multiplier[0]));
        const __m256i odd = _mm256_mul_epi32(_mm256_srli_epi64(acc, 32), load(r->multiplier[1]));
        const __m256i high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
        return _mm256_srav_epi32(_mm256_add_epi32(high, load(r->high_round)), load(r->high_right));
    }
    return _mm256_blend_epi32(scale4(acc, r, 0, way), _mm256_slli_epi64(scale4(acc, r, 1, way), 32), 0xAA);
}

/* What the int8 of 16 channels are clamped to, and Z */
typedef struct {
    __m256i zero;
    __m128i low, high;
} limits;

INLINE limits limits_of(const kws_requant *requant)
{
    limits l;
    l.zero = _mm256_set1_epi16((short)requant->zero_point);
    l.low = _mm_set1_epi8((char)requant->activation_min);
    l.high = _mm_set1_epi8((char)requant->activation_max);
    return l;
}

/* Stores the int8 of up to 16 channels; packing brings the order of `lane_of` back */
INLINE void requantize_to(int8_t *to, int32_t channels, __m256i acc0, __m256i acc1, const requant8 *r, int way,
                          const limits *l)
{
    const __m256i both = _mm256_packs_epi32(requantize8(acc0, r, way), requantize8(acc1, r + 1, way));
    const __m256i wide = _mm256_adds_epi16(both, l->zero);
    const __m128i saturated = _mm_packs_epi16(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    const __m128i y = _mm_min_epi8(_mm_max_epi8(saturated, l->low), l->high);
    if (channels == BLOCK) {
        _mm_storeu_si128((__m128i *)(void *)to, y);
    } else {
        int8_t all[BLOCK];
        _mm_storeu_si128((__m128i *)(void *)all, y);
        memcpy(to, all, (size_t)channels);
    }
}

/* x as int16 with the border of Zx, and room behind it that a last group may read */
static TARGET void copy_padded(const kws_affine *op, kws_padded padded, const int8_t *input, int16_t *to)
{
    const kws_window *w = &op->window;
    const int32_t used_h = padded.h - w->pad_top < w->in_h ? padded.h - w->pad_top : w->in_h;
    const int32_t used_w = padded.w - w->pad_left < w->in_w ? padded.w - w->pad_left : w->in_w;
    const int32_t row = padded.w * w->in_c, size = used_w * w->in_c;
    int32_t y, i;
    if (padded.h != w->in_h || padded.w != w->in_w)
        for (i = 0; i < padded.h * row; i++)
            to[i] = (int16_t)op->input_zero_point;
    to += w->pad_top * row + w->pad_left * w->in_c;
    for (y = 0; y < used_h; y++) {
        for (i = 0; i + 16 <= size; i += 16) {
            const __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(input + i));
            _mm256_storeu_si256((__m256i *)(void *)(to + i), _mm256_cvtepi8_epi16(x));
        }
        for (; i < size; i++)
            to[i] = input[i];
        to += row;
        input += w->in_w * w->in_c;
    }
}

static size_t padded_size(const void *op_)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_padded p = kws_padded_of(&op->window);
    return kws_pack_aligned(((size_t)p.h * (size_t)p.w * (size_t)op->window.in_c + 32) * 2);
}

static size_t packed_size(size_t groups, size_t blocks)
{
    return kws_pack_aligned(sizeof(packed_affine)) + kws_pack_aligned(groups * 4)
           + blocks * (groups * BLOCK * 4 + BLOCK * 4 + VECTORS * sizeof(requant8));
}

static int32_t conv2d_groups(const kws_padded *p)
{
    return p->n_segments * ((p->segment + 1) / 2);
}

static size_t conv2d_packed_size(const void *op_)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_padded p = kws_padded_of(&op->window);
    return packed_size((size_t)conv2d_groups(&p), (size_t)blocks_of(op->window.out_c));
}

/* Lays out the parts of `packed`; pointers to what is still to be filled come back */
static void lay_out(packed_affine *to, int32_t groups, int32_t blocks, int32_t **offsets, int16_t **weights,
                    int32_t **bias, requant8 **requant)
{
    int8_t *at = (int8_t *)to + kws_pack_aligned(sizeof *to);
    memset(to, 0, packed_size((size_t)groups, (size_t)blocks));
    to->groups = groups;
    to->offsets = *offsets = (int32_t *)(void *)at;
    at += kws_pack_aligned((size_t)groups * 4);
    to->requant = *requant = (requant8 *)(void *)at;
    at += (size_t)(blocks * VECTORS) * sizeof(requant8);
    to->bias = *bias = (int32_t *)(void *)at;
    at += (size_t)(blocks * BLOCK) * 4;
    to->weights = *weights = (int16_t *)(void *)at;
}

/* The place of channel `c` of a block among the lanes of both vectors, in fours: 0 2 | 1 3. Interleaving int16 makes
 * it, and packing to int16 undoes it. */
static int32_t lane_of(int32_t c)
{
    return c / 4 % 2 * LANES + c / 8 * 4 + c % 4;
}

static void conv2d_pack(void *op_, void *packed)
{
    kws_affine *op = (kws_affine *)op_;
    const kws_window *w = &op->window;
    const kws_padded p = kws_padded_of(w);
    const int32_t per_segment = (p.segment + 1) / 2, size = p.segment * p.n_segments;
    int32_t *offsets, *bias, s, g, i, c;
    requant8 *requant;
    int16_t *weights;
    lay_out((packed_affine *)packed, conv2d_groups(&p), blocks_of(w->out_c), &offsets, &weights, &bias, &requant);
    ((packed_affine *)packed)->padded = p;
    ((packed_affine *)packed)->way = way_of(op);
    for (s = 0; s < p.n_segments; s++)
        for (g = 0; g < per_segment; g++)
            offsets[s * per_segment + g] = s * p.w * w->in_c + 2 * g;
    for (c = 0; c < w->out_c; c++) {
        const int32_t lane = lane_of(c % BLOCK), first = c / BLOCK * conv2d_groups(&p);
        for (i = 0; i < size; i++) {
            const int32_t group = first + i / p.segment * per_segment + i % p.segment / 2;
            weights[(group * BLOCK + lane) * 2 + i % p.segment % 2] =
                (int16_t)(op->weight[c * size + i] - op->weight_zero_point);
        }
        bias[c / BLOCK * BLOCK + lane] = op->bias[c];
        pack_requant(requant + c / BLOCK * VECTORS + lane / LANES, lane % LANES, &op->requant, c);
    }
    op->packed = packed;
}

/* Named variables, not arrays: compilers keep those in registers, and with five rows there are enough of these */
#define EACH_ROW(DO) \
    DO(0) \
    if (rows > 1) { \
        DO(1) \
    } \
    if (rows > 2) { \
        DO(2) DO(3) DO(4) \
    }
#define DECLARE(r) \
    const int16_t *from##r = from[rows > r ? r : 0]; \
    __m256i acc##r##0 = bias0, acc##r##1 = bias1;
#define PRODUCTS(r) \
    { \
        int32_t two; \
        __m256i x; \
        memcpy(&two, from##r + offset, 4); \
        x = _mm256_set1_epi32(two); \
        acc##r##0 = _mm256_add_epi32(acc##r##0, _mm256_madd_epi16(x, weight0)); \
        acc##r##1 = _mm256_add_epi32(acc##r##1, _mm256_madd_epi16(x, weight1)); \
    }
#define STORE(r) requantize_to(to[r], channels, acc##r##0, acc##r##1, requant, way, l);

/* `rows` outputs, ROWS, 2 or 1, of one block of 16 channels */
INLINE void conv2d_tile(const packed_affine *packed, int32_t block, const int16_t *const *from, int8_t *const *to,
                        int32_t channels, int rows, int way, const limits *l)
{
    const requant8 *requant = packed->requant + block * VECTORS;
    const int16_t *w = packed->weights + (size_t)(block * packed->groups) * BLOCK * 2;
    const __m256i bias0 = load(packed->bias + block * BLOCK), bias1 = load(packed->bias + block * BLOCK + LANES);
    const int32_t *const end = packed->offsets + packed->groups, *at;
    DECLARE(0) DECLARE(1) DECLARE(2) DECLARE(3) DECLARE(4)
    for (at = packed->offsets; at < end; at++, w += BLOCK * 2) {
        const __m256i weight0 = load(w), weight1 = load(w + BLOCK);
        const int32_t offset = *at;
        EACH_ROW(PRODUCTS)
    }
    EACH_ROW(STORE)
}

#define TILE(way) \
    (rows == ROWS ? conv2d_tile(packed, block, from, to, channels, ROWS, way, l) \
     : rows == 2  ? conv2d_tile(packed, block, from, to, channels, 2, way, l) \
                  : conv2d_tile(packed, block, from, to, channels, 1, way, l))

static TARGET void conv2d_tiles(const packed_affine *packed, int32_t block, const int16_t *const *from,
                                int8_t *const *to, int32_t channels, int rows, const limits *l)
{
    if (packed->way == HIGH)
        TILE(HIGH);
    else if (packed->way == SINGLE)
        TILE(SINGLE);
    else
        TILE(TFLM);
}

/* ROWS outputs at a time, the last ROWS again where some are left; where there are fewer, two at a time, or one. */
static TARGET void conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const packed_affine *packed = (const packed_affine *)op->packed;
    const kws_window *w = &op->window;
    const int32_t row_step = w->stride_h * packed->padded.w * w->in_c, step = w->stride_w * w->in_c;
    const int32_t out_w = w->out_w, out_c = w->out_c, outputs = w->out_h * out_w;
    const int32_t rows = outputs >= ROWS ? ROWS : outputs >= 2 ? 2 : 1;
    const limits l = limits_of(&op->requant);
    int32_t block, i, r;
    (void)input2;
    copy_padded(op, packed->padded, input, (int16_t *)scratch);
    for (i = 0; i < outputs; i += rows) {
        const int32_t begin = i + rows > outputs ? outputs - rows : i;
        const int16_t *from[ROWS];
        int8_t *to[ROWS];
        int32_t y = begin / out_w, x = begin % out_w;
        for (r = 0; r < rows; r++) {
            from[r] = (const int16_t *)scratch + y * row_step + x * step;
            to[r] = output + (begin + r) * out_c;
            if (++x == out_w) {
                x = 0;
                y++;
            }
        }
        for (block = 0; block < blocks_of(out_c); block++) {
            const int32_t left = out_c - block * BLOCK;
            conv2d_tiles(packed, block, from, to, left < BLOCK ? left : BLOCK, rows, &l);
            for (r = 0; r < rows; r++)
                to[r] += BLOCK;
        }
    }
}

/* Depthwise: two rows of the kernel are the two products of a lane */
static int32_t depthwise_groups(const kws_window *w)
{
    return (w->kernel_h + 1) / 2 * w->kernel_w;
}

static size_t depthwise_packed_size(const void *op_)
{
    const kws_window *w = &((const kws_affine *)op_)->window;
    return w->in_c == w->out_c ? packed_size((size_t)depthwise_groups(w), (size_t)blocks_of(w->out_c)) : 0;
}

static void depthwise_pack(void *op_, void *packed)
{
    kws_affine *op = (kws_affine *)op_;
    const kws_window *w = &op->window;
    const int32_t groups = depthwise_groups(w);
    int32_t *offsets, *bias, c, i, j;
    requant8 *requant;
    int16_t *weights;
    lay_out((packed_affine *)packed, groups, blocks_of(w->out_c), &offsets, &weights, &bias, &requant);
    ((packed_affine *)packed)->padded = kws_padded_of(w);
    ((packed_affine *)packed)->way = way_of(op);
    for (c = 0; c < w->out_c; c++) {
        const int32_t lane = lane_of(c % BLOCK);
        uint32_t sum = 0;
        for (i = 0; i < w->kernel_h; i++) {
            for (j = 0; j < w->kernel_w; j++) {
                const int32_t value = op->weight[(i * w->kernel_w + j) * w->out_c + c] - op->weight_zero_point;
                const int32_t group = c / BLOCK * groups + i / 2 * w->kernel_w + j;
                weights[(group * BLOCK + lane) * 2 + i % 2] = (int16_t)value;
                sum = sum + (uint32_t)value;
            }
        }
        /* the border is Zx here, so x is taken raw */
        bias[c / BLOCK * BLOCK + lane] =
            (int32_t)((uint32_t)op->bias[c] - (uint32_t)op->input_zero_point * sum);
        pack_requant(requant + c / BLOCK * VECTORS + lane / LANES, lane % LANES, &op->requant, c);
    }
    op->packed = packed;
}

INLINE void depthwise_pixel(const kws_window *w, const packed_affine *packed, int32_t block, const int16_t *from,
                            int32_t row, int8_t *to, int32_t channels, int way, const limits *l)
{
    const int16_t *weights = packed->weights + (size_t)(block * packed->groups) * BLOCK * 2;
    __m256i acc0 = load(packed->bias + block * BLOCK), acc1 = load(packed->bias + block * BLOCK + LANES);
    int32_t i, j;
    for (i = 0; i < w->kernel_h; i += 2) {
        const int16_t *next = from + (i + 1 < w->kernel_h ? row : 0); /* below the last row the weight is 0 */
        for (j = 0; j < w->kernel_w; j++) {
            const __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(from + j * w->in_c));
            const __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(next + j * w->in_c));
            acc0 = _mm256_add_epi32(acc0, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), load(weights)));
            acc1 = _mm256_add_epi32(acc1, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), load(weights + BLOCK)));
            weights += BLOCK * 2;
        }
        from += 2 * row;
    }
    requantize_to(to, channels, acc0, acc1, packed->requant + block * VECTORS, way, l);
}

static TARGET void depthwise_conv2d(const void *op_, const int8_t *input, const int8_t *input2, int8_t *output,
                                    void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const packed_affine *packed = (const packed_affine *)op->packed;
    const kws_window w = op->window; /* a copy, which writing to the output cannot change */
    const int32_t row = packed->padded.w * w.in_c;
    const limits l = limits_of(&op->requant);
    int32_t block, y, x;
    (void)input2;
    copy_padded(op, packed->padded, input, (int16_t *)scratch);
    for (block = 0; block < blocks_of(w.out_c); block++) {
        const int32_t channels = w.out_c - block * BLOCK < BLOCK ? w.out_c - block * BLOCK : BLOCK;
        for (y = 0; y < w.out_h; y++) {
            const int16_t *from = (const int16_t *)scratch + y * w.stride_h * row + block * BLOCK;
            int8_t *to = output + y * w.out_w * w.out_c + block * BLOCK;
            for (x = 0; x < w.out_w; x++, from += w.stride_w * w.in_c, to += w.out_c) {
                if (packed->way == HIGH)
                    depthwise_pixel(&w, packed, block, from, row, to, channels, HIGH, &l);
                else if (packed->way == SINGLE)
                    depthwise_pixel(&w, packed, block, from, row, to, channels, SINGLE, &l);
                else
                    depthwise_pixel(&w, packed, block, from, row, to, channels, TFLM, &l);
            }
        }
    }
}

static size_t always_suits(const void *op)
{
    (void)op;
    return 1;
}

const kws_fast_path kws_avx2_paths[] = {
    {"add avx2", kws_add, kws_avx2_add, always_suits, kws_pack_nothing, kws_no_scratch},
    {"average_pool avx2", kws_average_pool, kws_avx2_average_pool, kws_avx2_average_pool_suits, kws_pack_nothing,
     kws_no_scratch},
    {"conv2d avx2", kws_conv2d, conv2d, conv2d_packed_size, conv2d_pack, padded_size},
    {"depthwise_conv2d avx2", kws_depthwise_conv2d, depthwise_conv2d, depthwise_packed_size, depthwise_pack,
     padded_size},
};
const size_t kws_n_avx2_paths = sizeof kws_avx2_paths / sizeof *kws_avx2_paths;
#else
typedef int kws_no_avx2;
#endif
