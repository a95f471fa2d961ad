/* SPDX-License-Identifier: Apache-2.0 */
/* int16 samples -> features, in integers: the bits of features/fixed_frontend.py, which is the specification. */
#ifndef KWS_FRONTEND_H
#define KWS_FRONTEND_H

#include <stddef.h>
#include <stdint.h>

/* The constants of a front-end (features/fixed_frontend.py, FixedTables); n_fft is a power of two from 64 */
typedef struct {
    int32_t frame_length, hop_length, n_fft, n_mels;
    int32_t n_mfcc; /* 0: the features are the mel bands */
    int32_t power;  /* 1: magnitude, 2: power spectrum */
    int32_t log2_n_fft;
    int32_t t_max;
    int32_t floor_multiplier, floor_exponent;
    int32_t log_offset_q16;
    const int16_t *window_q15;         /* (frame_length) */
    const int32_t *twiddles_q30;       /* (3 n_fft / 8, 2) */
    const int32_t *twiddles_q31;       /* (n_fft / 4, 2) */
    const uint16_t *mel_first;         /* (n_mels) */
    const uint16_t *mel_count;         /* (n_mels) */
    const uint16_t *mel_weights_q16;   /* of band 0, of band 1, ... */
    const int16_t *dct_q14;            /* (n_mfcc, n_mels), or 0 */
    int32_t multiplier, shift;         /* Q16 -> the network's scale, as kws_requant has them, rounded once */
    int32_t zero_point;
} kws_frontend;

enum { KWS_PEAK_NONE = 32768 }; /* the samples are not divided by anything */

/* int32 values of work memory for one frame */
#define KWS_FRONTEND_WORK(n_fft, n_mels) ((n_fft) + 2 + (n_mels))

/* One frame: samples (frame_length), divided by peak / 32768, to (n_mfcc or n_mels) features in Q16 */
void kws_frontend_q16(const kws_frontend *frontend, const int16_t *samples, int32_t peak, int32_t *work, int32_t *q16);

/* Features in Q16, as many as a frame has, to the network's int8 */
void kws_frontend_quantize(const kws_frontend *frontend, const int32_t *q16, int8_t *features);

/* What computes `count` frames, each hop_length samples after the one before, to int8 features (count, n_features) */
typedef void kws_frames(const kws_frontend *frontend, const int16_t *samples, int32_t count, int32_t *work,
                        int8_t *features);

/* work: KWS_FRONTEND_WORK values, and as many as a frame has features */
kws_frames kws_frontend_frames;

/* log_mel (n_mels) -> q16 (n_mfcc) */
void kws_frontend_dct(const kws_frontend *frontend, const int32_t *log_mel, int32_t *q16);

/* On x86-64: several frames at once, the same bits. `frames` says where each begins. power 2 only. */
typedef struct {
    int32_t lanes;
    /* work: lanes * KWS_FRONTEND_WORK values, aligned to 64 bytes; log_mel (lanes, n_mels) */
    void (*log_mel)(const kws_frontend *frontend, const int16_t *samples, const int32_t *starts, int32_t *work,
                    int32_t *log_mel);
    void (*quantize)(const kws_frontend *frontend, const int32_t *q16, int8_t *features); /* as kws_frontend_quantize */
} kws_frontend_path;

extern const kws_frontend_path kws_frontend_avx2;

#endif
