/* SPDX-License-Identifier: Apache-2.0 */
/* From samples to events: front-end, network and the decision to fire, on a stream in pieces of any size. In integers,
 * event for event what kws/stream.py and kws/detector.py decide, which are the specification.
 *
 * The network runs every `stride` frames on the `input_size / n_features` oldest of the last `delay` frames: on whole
 * windows, or column by column where it streams. Its outputs are posteriors, S = 1/256 and Z = -128.
 */
#ifndef KWS_LISTEN_H
#define KWS_LISTEN_H

#include "kws_frontend.h"
#include "kws_nn.h"

/* What a listener is made of; all of it constant */
typedef struct {
    const kws_frontend *frontend;
    kws_frames *frames;     /* what computes it */
    int32_t frames_at_once; /* in one call, at most */
    int32_t work_size;      /* bytes that it works in, aligned as the memory is */
    const kws_network *network;
    const kws_move *moves; /* (n_moves), after each run; none where the network keeps nothing between two runs */
    int32_t n_moves;
    int32_t stride, delay;
    int32_t lag;                          /* runs before that of the first window */
    int32_t every;                        /* runs from one window to the next */
    int32_t n_frames;                     /* of a window */
    int32_t silence;                      /* frames before the first sample, a multiple of every * stride */
    int32_t smoothing, refractory;        /* windows */
    int32_t n_keywords;                   /* they are the first labels */
    const int32_t *thresholds, *releases; /* (n_keywords), of sums over `smoothing` windows */
    int32_t after;                        /* windows from the centre of the posteriors to where the word is located */
    int32_t pause, late, shortest, longest; /* frames: kws/detector.py, locate */
} kws_listen;

/* A keyword that was heard */
typedef struct {
    int32_t keyword;    /* the index of its label */
    int32_t score;      /* its largest posterior, 1..255 */
    int64_t first, end; /* its first frame and that behind its last; frame 0 begins with the first sample */
} kws_event;

/* Bytes of memory, aligned to KWS_ALIGNMENT, that hold a stream */
size_t kws_listen_size(const kws_listen *listen);

/* Begins a stream, at any time. 0, or -1 where the memory is too small or not aligned. */
int kws_listen_init(const kws_listen *listen, void *memory, size_t size);

/* The next n samples, from 0 on. Returns the number of events that they complete, of which `events` gets the first
 * `most`; one window gives one at most. */
int32_t kws_listen_push(const kws_listen *listen, void *memory, const int16_t *samples, size_t n, kws_event *events,
                        int32_t most);

/* Ends the stream: as many windows as the whole recording has, with silence behind it. Events as of push. */
int32_t kws_listen_finish(const kws_listen *listen, void *memory, kws_event *events, int32_t most);

#endif
