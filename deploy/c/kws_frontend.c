/* SPDX-License-Identifier: Apache-2.0 */
#include "kws_frontend_math.h"

#if defined(__ARM_FEATURE_DSP) && !defined(KWS_PORTABLE)
#include <arm_acle.h>
#endif

/* log2(1 + i / 128) in Q16; the last, 65536, wraps to 0, and so does its difference */
const uint16_t kws_log2_table_q16[129] = {
    0, 736, 1466, 2190, 2909, 3623, 4331, 5034, 5732, 6425, 7112, 7795, 8473, 9146, 9814, 10477,
    11136, 11791, 12440, 13086, 13727, 14363, 14996, 15624, 16248, 16868, 17484, 18096, 18704, 19308,
    19909, 20505, 21098, 21687, 22272, 22854, 23433, 24007, 24579, 25146, 25711, 26272, 26830, 27384,
    27936, 28484, 29029, 29571, 30109, 30645, 31178, 31707, 32234, 32758, 33279, 33797, 34312, 34825,
    35334, 35841, 36346, 36847, 37346, 37842, 38336, 38827, 39316, 39802, 40286, 40767, 41246, 41722,
    42196, 42667, 43137, 43603, 44068, 44530, 44990, 45448, 45904, 46357, 46809, 47258, 47705, 48150,
    48593, 49034, 49472, 49909, 50344, 50776, 51207, 51636, 52063, 52488, 52911, 53332, 53751, 54169,
    54584, 54998, 55410, 55820, 56229, 56635, 57040, 57443, 57845, 58245, 58643, 59039, 59434, 59827,
    60219, 60609, 60997, 61384, 61769, 62152, 62534, 62915, 63294, 63671, 64047, 64421, 64794, 65166,
    0,
};

static inline int32_t multiply_high(int32_t v, int32_t w)
{
    return (int32_t)(((int64_t)v * w + (INT64_C(1) << 31)) >> 32);
}

#define LANES 1
#define INLINE static inline
#define vec int32_t
#define LOAD(p) (*(p))
#define STORE(p, v) (*(p) = (v))
#define ADD(a, b) ((a) + (b))
#define SUB(a, b) ((a) - (b))
#define HALF(v) (((v) + 1) >> 1)
#define QUARTER(v) (((v) + 2) >> 2)
#define OR_ABS(bits, v) ((bits) | ((v) < 0 ? -(v) : (v)))
#if defined(__ARM_FEATURE_DSP) && !defined(KWS_PORTABLE)
static inline int32_t smmulr(int32_t v, int32_t w)
{
    int32_t y;
    __asm__("smmulr %0, %1, %2" : "=r"(y) : "r"(v), "r"(w));
    return y;
}

static inline int32_t smmlar(int32_t sum, int32_t v, int32_t w)
{
    int32_t y;
    __asm__("smmlar %0, %1, %2, %3" : "=r"(y) : "r"(v), "r"(w), "r"(sum));
    return y;
}

static inline int32_t smmlsr(int32_t sum, int32_t v, int32_t w)
{
    int32_t y;
    __asm__("smmlsr %0, %1, %2, %3" : "=r"(y) : "r"(v), "r"(w), "r"(sum));
    return y;
}
#define MULTIPLY_HIGH(v, w) smmulr(v, w)
#define MULTIPLY_HIGH_ADD(s, v, w) smmlar(s, v, w)
#define MULTIPLY_HIGH_SUB(s, v, w) smmlsr(s, v, w)
#else
#define MULTIPLY_HIGH(v, w) multiply_high(v, w)
#define MULTIPLY_HIGH_ADD(s, v, w) ((s) + multiply_high(v, w))
#define MULTIPLY_HIGH_SUB(s, v, w) ((s) + multiply_high(-(v), w))
#endif
#include "kws_frontend_kernel.h"

/* 16 leading bits of the root of x < 2^62 (features/fixed_math.py, square_root) */
static uint32_t square_root(uint64_t x)
{
    const int32_t bits = kws_bit_length(x);
    const int32_t n_half = bits > 32 ? (bits - 31) / 2 : 0;
    uint32_t rest = (uint32_t)(x >> (2 * n_half)), root = 0;
    int32_t bit;
    for (bit = 15; bit >= 0; bit--) {
        const uint32_t trial = (root << 1 | UINT32_C(1) << bit) << bit;
        if (rest >= trial) {
            rest -= trial;
            root |= UINT32_C(1) << bit;
        }
    }
    return (root + (rest > root)) << n_half;
}

void kws_frontend_dct(const kws_frontend *frontend, const int32_t *log_mel, int32_t *q16)
{
    const int16_t *w = frontend->dct_q14;
    int32_t i, m;
    for (i = 0; i < frontend->n_mfcc; i++) {
        int64_t sum = 1 << 13;
        for (m = 0; m < frontend->n_mels; m++)
            sum += (int64_t)log_mel[m] * *w++;
        q16[i] = (int32_t)(sum >> 14);
    }
}

/* The left shift by which the largest sample fills 16 bits, at most t_max */
static int32_t headroom(const kws_frontend *frontend, const int16_t *samples)
{
    int32_t bits = 0;
    int32_t i, left;
    for (i = 0; i < frontend->frame_length; i++)
        bits |= samples[i] ^ (samples[i] >> 15);
    left = 15 - kws_bit_length((uint32_t)bits);
    return left > frontend->t_max ? frontend->t_max : left;
}

/* samples * scale * window into `work`, in bit-reversed order */
static void load(const kws_frontend *frontend, const int16_t *samples, int32_t scale, int32_t *work)
{
    const int16_t *window = frontend->window_q15;
    const int32_t n = frontend->n_fft / 2, pairs = frontend->frame_length / 2;
    int32_t i, to = 0;
    for (i = 0; i < pairs; i++) {
        *RE(to) = samples[2 * i] * scale * window[2 * i];
        *IM(to) = samples[2 * i + 1] * scale * window[2 * i + 1];
        to = next_reversed(to, n);
    }
    for (; i < n; i++) {
        const int32_t last = 2 * i < frontend->frame_length;
        *RE(to) = last ? samples[2 * i] * scale * window[2 * i] : 0;
        *IM(to) = 0;
        to = next_reversed(to, n);
    }
}

void kws_frontend_q16(const kws_frontend *frontend, const int16_t *samples, int32_t peak, int32_t *work, int32_t *q16)
{
    const int32_t n = frontend->n_fft / 2, power = frontend->power;
    const int32_t peak_log2_q16 = power * (kws_log2_q16((uint32_t)peak) - 15 * 65536);
    const uint16_t *weights = frontend->mel_weights_q16;
    int32_t *log_mel = frontend->n_mfcc ? work + frontend->n_fft + 2 : q16;
    const int32_t right = frontend->log2_n_fft + 14;
    const int32_t before = headroom(frontend, samples);
    int32_t k, m, left, t;
    uint64_t floor;
    load(frontend, samples, INT32_C(1) << before, work);
    complex_fft(work, n, frontend->log2_n_fft - 1, frontend->twiddles_q30);
    left = 30 - kws_bit_length((uint32_t)split_real(work, n, frontend->twiddles_q31));
    left = left > frontend->t_max - before ? frontend->t_max - before : left;
    t = before + left;
    floor = kws_mel_floor(frontend, t, peak);
    for (k = 0; k <= n; k++) { /* in the place of the complex value: 64 bits, the low ones first */
        const int64_t re = *RE(k) * (INT32_C(1) << left), im = *IM(k) * (INT32_C(1) << left);
        const uint64_t energy = (uint64_t)(re * re + im * im);
        const uint64_t bin = power == 2 ? (energy + (UINT64_C(1) << (right - 1))) >> right : square_root(energy);
        *RE(k) = (int32_t)(uint32_t)bin;
        *IM(k) = (int32_t)(bin >> 32);
    }
    for (m = 0; m < frontend->n_mels; m++) {
        const int32_t first = frontend->mel_first[m], end = first + frontend->mel_count[m];
        uint64_t mel = 0;
        for (k = first; k < end; k++)
            mel += ((uint64_t)(uint32_t)*IM(k) << 32 | (uint32_t)*RE(k)) * *weights++;
        log_mel[m] = kws_log_mel_q16(frontend, mel, floor, t, peak_log2_q16);
    }
    if (frontend->n_mfcc)
        kws_frontend_dct(frontend, log_mel, q16);
}

void kws_frontend_quantize(const kws_frontend *frontend, const int32_t *q16, int8_t *features)
{
    const int32_t count = frontend->n_mfcc ? frontend->n_mfcc : frontend->n_mels;
    const int32_t right = 31 - frontend->shift;
    int32_t i;
    for (i = 0; i < count; i++) {
        const int64_t y = (((int64_t)q16[i] * frontend->multiplier + (INT64_C(1) << (right - 1))) >> right)
                          + frontend->zero_point;
        features[i] = (int8_t)(y < -128 ? -128 : y > 127 ? 127 : y);
    }
}

void kws_frontend_frames(const kws_frontend *frontend, const int16_t *samples, int32_t count, int32_t *work,
                         int8_t *features)
{
    int32_t *q16 = work + KWS_FRONTEND_WORK(frontend->n_fft, frontend->n_mels);
    for (; count > 0; count--) {
        kws_frontend_q16(frontend, samples, KWS_PEAK_NONE, work, q16);
        kws_frontend_quantize(frontend, q16, features);
        samples += frontend->hop_length;
        features += frontend->n_mfcc ? frontend->n_mfcc : frontend->n_mels;
    }
}
