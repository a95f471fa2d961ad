/* SPDX-License-Identifier: Apache-2.0 */
/* @name@ on a stream: samples in pieces of any size to events, in integers, event for event what `kws` hears.
 *
 *     static int8_t memory[@NAME@_LISTEN_SIZE];
 *     @name@_event events[4];
 *     @name@_listen_init(memory, sizeof memory);
 *     ... for each piece of the microphone's samples:
 *     n = @name@_listen_push(memory, samples, n_samples, events, 4);
 *     if (n > 0)
 *         puts(@name@_labels[events[0].keyword]);
 *
 * It has its own memory and needs nothing of what @name@.h and @name@_frontend.h do.
 */
#ifndef @NAME@_LISTEN_H
#define @NAME@_LISTEN_H

#include "@name@.h"
#include "@name@_frontend.h"
#include "@name@_nn_listen.h"

/* Bytes of memory, aligned in whatever way: the state of a stream, and what front-end and network compute in */
#define @NAME@_LISTEN_SIZE (@NAME@_NN_ALIGNMENT - 1 + @lasting_size@ + @computing_macro@)

/* Milliseconds from the first sample to where a frame of an event begins; negative where that lies before it */
#define @NAME@_MILLISECONDS(frame) \
    (((frame) * @hop_length@ + @edge_samples@) * 1000 / @sample_rate@)

/* keyword, index of its label; score 1..255; first and end: its first frame and that behind its last */
typedef @name@_nn_event @name@_event;

#ifdef __cplusplus
extern "C" {
#endif

/* The thresholds and all else that it goes by */
extern const @name@_nn_listen @name@_listening;

/* Begins a stream, at any time. 0, or -1 where there are fewer than @NAME@_LISTEN_SIZE bytes. */
int @name@_listen_init(void *memory, size_t size);

/* The next n samples at @sample_rate@ Hz, from 0 on. Returns the number of events that they complete, of which `events`
 * gets the first `most`. At most one event comes in @event_samples@ samples. */
int32_t @name@_listen_push(void *memory, const int16_t *samples, size_t n, @name@_event *events, int32_t most);

/* Where a recording ends: the events that silence behind it completes. Then only init. */
int32_t @name@_listen_finish(void *memory, @name@_event *events, int32_t most);

#ifdef __cplusplus
}
#endif

#endif
