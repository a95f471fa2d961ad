/* SPDX-License-Identifier: Apache-2.0 */
/* Convolution by AMX: an instruction adds the products of 16 outputs' 64 inputs with the weights of 16 channels.
 *
 * The constants are those of the AVX-512 path, whose layout is that of a tile: 16 groups of four inputs, of 16 channels
 * each. So are the biases and what is done with the sums. Tiles 0 to 3 hold the sums of up to 64 channels, 4 and 5
 * inputs and weights of 16 groups, 6 and 7 those of what is left of a segment.
 */
#include "kws_x86_avx512.h"

#ifdef KWS_AMX

enum { TILE_ROWS = 16, TILE_BYTES = 64, TILE_GROUPS = TILE_BYTES / 4, LEAST_OUTPUTS = 8, LEAST_SEGMENT = 32 };

/* Written as bytes (Intel's manual, volume 2), for assemblers that do not know AMX; and gcc's own macros do not tell the
 * compiler what memory a load reads. Addresses are in rax, strides in rcx. */
#define CONFIGURE(config) __asm__ volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0x00" : : "a"(config) : "memory")
#define RELEASE() __asm__ volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0xc0" : : : "memory")
#define MOVE(opcode, tile, at, stride) \
    __asm__ volatile(".byte 0xc4, 0xe2, " opcode ", 0x4b, 0x04 + 8 * " #tile ", 0x08" \
                     : \
                     : "a"(at), "c"((int64_t)(stride)) \
                     : "memory")
#define LOAD(tile, from, stride) MOVE("0x7b", tile, from, stride)
#define STORE(tile, to, stride) MOVE("0x7a", tile, to, stride)
#define MULTIPLY(sums, a, b) \
    __asm__ volatile(".byte 0xc4, 0xe2, 1 + 8 * (15 - " #b "), 0x5e, 0xc0 + 8 * " #sums " + " #a : :)

/* What LDTILECFG reads */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16]; /* of a row */
    uint8_t rows[16];
} tile_config;

/* A tile that few inputs or outputs fill does little of what it could, so those are left to AVX-512, as are weights with
 * a zero point, which needs the sums of the inputs as well. */
static size_t packed_size(const void *op_)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_window *w = &op->window;
    if (op->weight_zero_point != 0 || w->out_h * w->out_w < LEAST_OUTPUTS
        || kws_padded_of(w).segment < LEAST_SEGMENT)
        return 0;
    return kws_avx512_conv2d_packed_size(op);
}

/* Inputs of `rows` outputs from `offset` on, one row each: where they lie, `*stride` bytes apart; copied to `copy` where
 * they are not equally far apart */
static inline TARGET const uint8_t *rows_of(const uint8_t *const *from, int32_t rows, int even, int32_t offset,
                                            int32_t bytes, uint8_t (*copy)[TILE_BYTES], ptrdiff_t *stride)
{
    const __mmask64 mask = bytes == TILE_BYTES ? ~UINT64_C(0) : (UINT64_C(1) << bytes) - 1;
    int32_t i;
    *stride = even ? from[1] - from[0] : TILE_BYTES;
    if (even)
        return from[0] + offset;
    for (i = 0; i < rows; i++)
        _mm512_store_si512(copy[i], _mm512_maskz_loadu_epi8(mask, from[i] + offset));
    return copy[0];
}

#define PRODUCTS(a, b) \
    { \
        ptrdiff_t stride; \
        const uint8_t *x = rows_of(from, rows, even, packed->offsets[g], bytes, copy, &stride); \
        LOAD(a, x, stride); \
        LOAD(b, w, vectors * BLOCK); \
        MULTIPLY(0, a, b); \
        if (vectors > 1) { \
            LOAD(b, w + BLOCK, vectors * BLOCK); \
            MULTIPLY(1, a, b); \
        } \
        if (vectors > 2) { \
            LOAD(b, w + 2 * BLOCK, vectors * BLOCK); \
            MULTIPLY(2, a, b); \
        } \
        if (vectors > 3) { \
            LOAD(b, w + 3 * BLOCK, vectors * BLOCK); \
            MULTIPLY(3, a, b); \
        } \
    }

/* Sums of `rows` outputs, which begin at from[i]: of output i at sums[i], vectors side by side */
static TARGET void sums_of(const packed_conv2d *packed, const uint8_t *const *from, int32_t rows,
                           const int8_t *weights, const int32_t *bias, int32_t vectors, int32_t *sums)
{
    uint8_t copy[TILE_ROWS][TILE_BYTES] __attribute__((aligned(TILE_BYTES)));
    const int32_t per_segment = packed->groups / packed->padded.n_segments;
    const int8_t *w = weights;
    int32_t s, i;
    int even = 1;
    for (i = 2; i < rows; i++)
        even &= from[i] - from[i - 1] == from[1] - from[0];
    LOAD(0, bias, 0); /* the same row again and again */
    if (vectors > 1)
        LOAD(1, bias + LANES, 0);
    if (vectors > 2)
        LOAD(2, bias + 2 * LANES, 0);
    if (vectors > 3)
        LOAD(3, bias + 3 * LANES, 0);
    for (s = 0; s < packed->padded.n_segments; s++) {
        int32_t g = s * per_segment, left = per_segment, bytes = TILE_BYTES;
        for (; left >= TILE_GROUPS; left -= TILE_GROUPS, g += TILE_GROUPS, w += TILE_GROUPS * vectors * BLOCK)
            PRODUCTS(4, 5)
        if (left > 0) {
            bytes = 4 * left;
            PRODUCTS(6, 7)
            w += left * vectors * BLOCK;
        }
    }
    STORE(0, sums, BLOCK * 4);
    if (vectors > 1)
        STORE(1, sums + LANES, BLOCK * 4);
    if (vectors > 2)
        STORE(2, sums + 2 * LANES, BLOCK * 4);
    if (vectors > 3)
        STORE(3, sums + 3 * LANES, BLOCK * 4);
}

static TARGET void kws_amx_conv2d(
    const void *op_, const int8_t *input, const int8_t *input2, int8_t *output, void *scratch)
{
    const kws_affine *op = (const kws_affine *)op_;
    const packed_conv2d *packed = (const packed_conv2d *)op->packed;
    const kws_window *window = &op->window;
    const int32_t pixels = window->out_h * window->out_w, blocks = blocks_of(window->out_c);
    const int32_t row_step = window->stride_h * packed->padded.w * window->in_c;
    const int32_t step = window->stride_w * window->in_c;
    const int32_t rows = pixels < TILE_ROWS ? pixels : TILE_ROWS;
    const int32_t left = packed->groups / packed->padded.n_segments % TILE_GROUPS;
    const __m512i zero = _mm512_set1_epi16((short)op->requant.zero_point);
    const __m512i low = _mm512_set1_epi8((char)op->requant.activation_min);
    const __m512i high = _mm512_set1_epi8((char)op->requant.activation_max);
    int32_t sums[TILE_ROWS * BLOCK] __attribute__((aligned(TILE_BYTES)));
    const int8_t *weights = packed->weights;
    tile_config config = {1, 0, {0}, {0}, {0}};
    int32_t block, first, i;
    (void)input2;
    copy_padded(op, packed->padded, input, (uint8_t *)scratch);
    for (i = 0; i < 8; i++) {
        config.bytes[i] = TILE_BYTES;
        config.rows[i] = (uint8_t)rows;
    }
    config.rows[5] = TILE_GROUPS;
    config.rows[7] = (uint8_t)(left ? left : TILE_GROUPS);
    config.bytes[6] = (uint16_t)(left ? 4 * left : TILE_BYTES);
    CONFIGURE(&config);
    for (block = 0; block < blocks; block++) {
        const int32_t vectors = vectors_of(window->out_c, block);
        const int32_t channels = window->out_c - block * BLOCK < BLOCK ? window->out_c - block * BLOCK : BLOCK;
        const __mmask64 mask = channels == BLOCK ? ~UINT64_C(0) : (UINT64_C(1) << channels) - 1;
        const __m512i compact = _mm512_loadu_si512(kws_avx512_compact[vectors]);
        const requant16 *requant = packed->requant + block * VECTORS;
        for (first = 0; first < pixels; first += rows) {
            const uint8_t *from[TILE_ROWS];
            if (first + rows > pixels)
                first = pixels - rows; /* some of them again */
            for (i = 0; i < rows; i++)
                from[i] = (const uint8_t *)scratch + (first + i) / window->out_w * row_step
                          + (first + i) % window->out_w * step;
            sums_of(packed, from, rows, weights, packed->bias + block * BLOCK, vectors, sums);
            for (i = 0; i < rows; i++) {
                int8_t *to = output + (first + i) * window->out_c + block * BLOCK;
                const int32_t *acc = sums + i * BLOCK;
                __m512i y[VECTORS];
                int32_t v;
                for (v = 0; v < VECTORS; v++) {
                    y[v] = v < vectors ? _mm512_load_si512(acc + v * LANES) : _mm512_setzero_si512();
                    if (v < vectors)
                        y[v] = packed->way == TFLM     ? requantize16(y[v], requant + v, TFLM)
                               : packed->way == SINGLE ? requantize16(y[v], requant + v, SINGLE)
                                                       : requantize16(y[v], requant + v, HIGH);
                }
                y[0] = packed->way == HIGH ? narrow(y[0], y[1], y[2], y[3], zero, low, high, HIGH)
                                           : narrow(y[0], y[1], y[2], y[3], zero, low, high, SINGLE);
                _mm512_mask_storeu_epi8(to, mask, _mm512_permutexvar_epi32(compact, y[0]));
            }
        }
        weights += (size_t)packed->groups * (size_t)vectors * BLOCK;
    }
    RELEASE();
}

const kws_fast_path kws_amx_paths[] = {
    {"conv2d amx-int8", kws_conv2d, kws_amx_conv2d, packed_size, kws_avx512_conv2d_pack, kws_avx512_padded_size},
};
const size_t kws_n_amx_paths = sizeof kws_amx_paths / sizeof *kws_amx_paths;

#else
typedef int kws_no_amx_conv2d;
#endif
