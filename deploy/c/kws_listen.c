/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "kws_listen.h"

typedef struct {
    int64_t n_samples;        /* heard */
    int64_t window;           /* the next to be decided */
    int32_t silence;          /* samples of the silence before the first that are still to come */
    int32_t n_held;           /* samples that wait to complete a frame */
    int32_t to_run, to_window; /* frames up to the next run, runs before that of the next window */
    int32_t quiet;            /* windows before which nothing fires */
    int32_t frame_at, level_at, recent_at; /* the oldest of each ring, which is written next */
} stream_state;

/* A stream as a call sees it: the parts of its memory */
typedef struct {
    const kws_listen *listen;
    kws_engine engine;
    int32_t *work;
    stream_state *state;
    int32_t *sums;     /* (n_keywords) of the last `smoothing` posteriors */
    int16_t *levels;   /* (n_levels) a ring of frames */
    int16_t *samples;  /* those held */
    int8_t *frames;    /* (delay, n_features) a ring */
    int8_t *features;  /* (frames_at_once, n_features) as the front-end gives them */
    uint8_t *recent;   /* (smoothing, n_keywords) a ring of posteriors */
    uint8_t *armed;    /* (n_keywords) */
    kws_event *events; /* (most) */
    int32_t most, n_events;
} stream;

static int32_t n_features_of(const kws_listen *listen)
{
    return listen->frontend->n_mfcc ? listen->frontend->n_mfcc : listen->frontend->n_mels;
}

static int32_t held_at_most(const kws_listen *listen)
{
    return listen->frontend->frame_length + (listen->frames_at_once - 1) * listen->frontend->hop_length;
}

/* Windows before the newest, at most, in which a word is located */
static int32_t windows_back(const kws_listen *listen)
{
    return listen->smoothing - 1 > listen->after ? listen->smoothing - 1 - listen->after : 0;
}

/* From the first frame of the oldest window that may be asked for to the newest of all */
static int32_t n_levels_of(const kws_listen *listen)
{
    return (listen->lag + windows_back(listen) * listen->every) * listen->stride + listen->delay;
}

/* Where the next part of `size` bytes lies; aligned, as all before it are */
static size_t part(size_t *end, size_t size)
{
    const size_t begin = *end;
    *end += KWS_ALIGN(size);
    return begin;
}

typedef struct {
    size_t network, state, sums, levels, samples, frames, features, recent, armed, end;
} layout;

/* The work of the front-end, at 0, shares its place with a network that keeps nothing */
static layout layout_of(const kws_listen *listen)
{
    const size_t keywords = (size_t)listen->n_keywords, n_features = (size_t)n_features_of(listen);
    const size_t work = KWS_ALIGN((size_t)listen->work_size), network = kws_memory_size(listen->network);
    layout at;
    at.network = listen->n_moves > 0 ? work : 0;
    at.end = at.network + network > work ? at.network + network : work;
    at.state = part(&at.end, sizeof(stream_state));
    at.sums = part(&at.end, keywords * sizeof(int32_t));
    at.levels = part(&at.end, (size_t)n_levels_of(listen) * sizeof(int16_t));
    at.samples = part(&at.end, (size_t)held_at_most(listen) * sizeof(int16_t));
    at.frames = part(&at.end, (size_t)listen->delay * n_features);
    at.features = part(&at.end, (size_t)listen->frames_at_once * n_features);
    at.recent = part(&at.end, (size_t)listen->smoothing * keywords);
    at.armed = part(&at.end, keywords);
    return at;
}

static stream stream_in(const kws_listen *listen, void *memory, kws_event *events, int32_t most)
{
    const layout at = layout_of(listen);
    int8_t *first = (int8_t *)memory;
    stream s;
    s.listen = listen;
    s.engine.network = listen->network;
    s.engine.memory = first + at.network;
    s.work = (int32_t *)memory;
    s.state = (stream_state *)(void *)(first + at.state);
    s.sums = (int32_t *)(void *)(first + at.sums);
    s.levels = (int16_t *)(void *)(first + at.levels);
    s.samples = (int16_t *)(void *)(first + at.samples);
    s.frames = first + at.frames;
    s.features = first + at.features;
    s.recent = (uint8_t *)(first + at.recent);
    s.armed = (uint8_t *)(first + at.armed);
    s.events = events;
    s.most = most;
    s.n_events = 0;
    return s;
}

size_t kws_listen_size(const kws_listen *listen)
{
    return layout_of(listen).end;
}

int kws_listen_init(const kws_listen *listen, void *memory, size_t size)
{
    stream s;
    if (size < kws_listen_size(listen) || (uintptr_t)memory % KWS_ALIGNMENT != 0)
        return -1;
    memset(memory, 0, kws_listen_size(listen));
    s = stream_in(listen, memory, NULL, 0);
    memset(s.armed, 1, (size_t)listen->n_keywords);
    s.state->silence = listen->silence * listen->frontend->hop_length;
    s.state->to_run = listen->delay;
    s.state->to_window = listen->lag;
    return 0;
}

/* Of frame `frame` of the window that begins at place `start` of the ring, over three frames */
static int32_t level(const stream *s, int32_t start, int32_t frame)
{
    const int32_t last = s->listen->n_frames - 1, n = n_levels_of(s->listen);
    const int32_t before = frame > 0 ? frame - 1 : 0, after = frame < last ? frame + 1 : last;
    return s->levels[(start + before) % n] + s->levels[(start + frame) % n] + s->levels[(start + after) % n];
}

/* The level that an eighth of the window's frames do not pass: the least of which that is so */
static int32_t quiet_level(const stream *s, int32_t start)
{
    int32_t low = 3 * INT16_MIN, high = 3 * INT16_MAX;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        int32_t count = 0, frame;
        for (frame = 0; frame < s->listen->n_frames; frame++)
            count += level(s, start, frame) <= middle;
        if (count > s->listen->n_frames / 8)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* First and last frame of the word in the window at `start`, `middle` being the last frame of the window of its centre:
 * kws/detector.py says why */
static void locate(const stream *s, int32_t start, int32_t middle, int32_t *word_first, int32_t *word_last)
{
    const kws_listen *listen = s->listen;
    const int32_t n = listen->n_frames, quiet = quiet_level(s, start);
    int32_t loudest = level(s, start, 0), last = middle, first, frame;
    for (frame = 1; frame < n; frame++)
        loudest = level(s, start, frame) > loudest ? level(s, start, frame) : loudest;
#define SPEECH(frame) (5 * (level(s, start, frame) - quiet) > loudest - quiet)
    for (frame = middle; frame >= 0; frame--)
        if (SPEECH(frame)) {
            last = frame;
            break;
        }
    for (frame = last < 0 ? 0 : last + 1; frame < n && frame - last <= listen->pause; frame++)
        if (SPEECH(frame))
            last = frame;
    if (last >= n - 2) /* the last level is the mean of two frames only */
        last = n - 1;
    last = last > middle - listen->late ? last : middle - listen->late;
    last = last > 0 ? last : 0;
    first = last;
    for (frame = last - 1; frame >= 0 && first - frame <= listen->pause && last - frame < listen->longest; frame--)
        if (SPEECH(frame))
            first = frame;
#undef SPEECH
    first = first < last - listen->shortest + 1 ? first : last - listen->shortest + 1;
    *word_first = first > 0 ? first : 0;
    *word_last = last;
}

/* The event of `keyword`, which fires in the newest window */
static void fire(stream *s, int32_t keyword)
{
    const kws_listen *listen = s->listen;
    const int32_t hop = listen->every * listen->stride;
    int32_t weighted = 0, peak = 0, back, after, age, first, last;
    int64_t offset;
    for (age = 0; age < listen->smoothing; age++) {
        const int32_t at = (s->state->recent_at - age + listen->smoothing) % listen->smoothing;
        const int32_t posterior = s->recent[at * listen->n_keywords + keyword];
        weighted += age * posterior; /* at most 255 * 256 * 255 / 2 */
        peak = posterior > peak ? posterior : peak;
    }
    back = weighted / s->sums[keyword]; /* windows from the centre to this one; the sum is 1 at least, a threshold */
    after = back < listen->after ? back : listen->after;
    back -= after; /* from the window in which the word is located */
    locate(s, s->state->level_at + (windows_back(listen) - back) * hop, listen->n_frames - 1 - after * hop, &first,
           &last);
    offset = (s->state->window - back) * hop - listen->silence;
    if (s->n_events < s->most) {
        s->events[s->n_events].keyword = keyword;
        s->events[s->n_events].score = peak;
        s->events[s->n_events].first = offset + first;
        s->events[s->n_events].end = offset + last + 1;
    }
    s->n_events++;
}

/* The next window: its posteriors are the network's output */
static void decide(stream *s)
{
    const kws_listen *listen = s->listen;
    const int8_t *output = kws_output(&s->engine);
    uint8_t *recent = s->recent + s->state->recent_at * listen->n_keywords;
    int32_t best = -1, i;
    for (i = 0; i < listen->n_keywords; i++) {
        const uint8_t posterior = (uint8_t)(output[i] + 128);
        s->sums[i] += posterior - recent[i];
        recent[i] = posterior;
        if (s->sums[i] < listen->releases[i])
            s->armed[i] = 1;
        if (s->armed[i] && s->sums[i] >= listen->thresholds[i] && (best < 0 || s->sums[i] > s->sums[best]))
            best = i;
    }
    if (s->state->quiet > 0)
        s->state->quiet--;
    if (best >= 0 && s->state->quiet == 0) {
        fire(s, best);
        s->armed[best] = 0;
        s->state->quiet = listen->refractory > 1 ? listen->refractory : 1;
    }
    s->state->recent_at = (s->state->recent_at + 1) % listen->smoothing;
    s->state->window++;
}

/* The network on the oldest frames held */
static void run(stream *s)
{
    const size_t oldest = (size_t)(s->state->frame_at * n_features_of(s->listen));
    const size_t wanted = (size_t)s->listen->network->input_size;
    const size_t to_end = (size_t)(s->listen->delay * n_features_of(s->listen)) - oldest;
    const size_t part = wanted < to_end ? wanted : to_end;
    int8_t *input = kws_input(&s->engine);
    memcpy(input, s->frames + oldest, part);
    memcpy(input + part, s->frames, wanted - part);
    kws_run(&s->engine);
    if (s->state->to_window == 0) {
        decide(s);
        s->state->to_window = s->listen->every;
    }
    s->state->to_window--;
    kws_advance(&s->engine, s->listen->moves, s->listen->n_moves);
}

/* One frame further */
static void hear(stream *s, const int8_t *features)
{
    const int32_t n_features = n_features_of(s->listen);
    stream_state *state = s->state;
    int32_t sum = features[0], i;
    for (i = 1; i < n_features && s->listen->frontend->n_mfcc == 0; i++)
        sum += features[i];
    s->levels[state->level_at] = (int16_t)sum; /* of at most 256 bands */
    state->level_at = (state->level_at + 1) % n_levels_of(s->listen);
    memcpy(s->frames + state->frame_at * n_features, features, (size_t)n_features);
    state->frame_at = (state->frame_at + 1) % s->listen->delay;
    if (--state->to_run == 0) {
        state->to_run = s->listen->stride;
        run(s);
    }
}

/* n samples, zeros where `samples` is 0 */
static void feed(stream *s, const int16_t *samples, size_t n)
{
    const kws_frontend *frontend = s->listen->frontend;
    const int32_t n_features = n_features_of(s->listen);
    stream_state *state = s->state;
    while (n > 0) {
        const size_t room = (size_t)(held_at_most(s->listen) - state->n_held), taken = n < room ? n : room;
        int32_t count, i;
        if (samples == NULL) {
            memset(s->samples + state->n_held, 0, taken * sizeof(int16_t));
        } else {
            memcpy(s->samples + state->n_held, samples, taken * sizeof(int16_t));
            samples += taken;
        }
        n -= taken;
        state->n_held += (int32_t)taken;
        if (state->n_held < frontend->frame_length)
            return; /* all were taken */
        count = 1 + (state->n_held - frontend->frame_length) / frontend->hop_length;
        s->listen->frames(frontend, s->samples, count, s->work, s->features);
        state->n_held -= count * frontend->hop_length;
        memmove(s->samples, s->samples + count * frontend->hop_length, (size_t)state->n_held * sizeof(int16_t));
        for (i = 0; i < count; i++)
            hear(s, s->features + i * n_features);
    }
}

static void feed_silence_before(stream *s)
{
    const size_t n = (size_t)s->state->silence;
    s->state->silence = 0;
    feed(s, NULL, n);
}

int32_t kws_listen_push(const kws_listen *listen, void *memory, const int16_t *samples, size_t n, kws_event *events,
                        int32_t most)
{
    stream s = stream_in(listen, memory, events, most);
    if (n > 0) {
        feed_silence_before(&s);
        feed(&s, samples, n);
        s.state->n_samples += (int64_t)n;
    }
    return s.n_events;
}

int32_t kws_listen_finish(const kws_listen *listen, void *memory, kws_event *events, int32_t most)
{
    stream s = stream_in(listen, memory, events, most);
    const int64_t hop = (int64_t)listen->every * listen->stride, hop_length = listen->frontend->hop_length;
    const int64_t n_windows = 1 + listen->silence / hop + s.state->n_samples / (hop * hop_length);
    feed_silence_before(&s);
    while (s.state->window < n_windows) { /* the frames that it takes to complete them, if the next completes one */
        const int64_t frames = (n_windows - s.state->window - 1) * hop + 1;
        feed(&s, NULL, (size_t)(frames * hop_length));
    }
    return s.n_events;
}
