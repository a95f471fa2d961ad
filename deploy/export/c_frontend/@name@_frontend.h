/* SPDX-License-Identifier: Apache-2.0 */
/* The front-end of @name@: samples to the features that the network takes, in integers, bit for bit as on the PC.
 *
 *     static int32_t work[@NAME@_FRONTEND_WORK];
 *     for (i = 0; i < @NAME@_INPUT_HEIGHT; i++)
 *         @name@_frame(samples + i * @NAME@_HOP_LENGTH, work, @name@_input(memory) + i * @NAME@_N_FEATURES);
 *
 * Link it only where it is used: nothing else of @name@ needs it.
 */
#ifndef @NAME@_FRONTEND_H
#define @NAME@_FRONTEND_H

#include <stdint.h>

#define @NAME@_SAMPLE_RATE @sample_rate@
#define @NAME@_FRAME_LENGTH @frame_length@ /* samples */
#define @NAME@_HOP_LENGTH @hop_length@ /* samples from one frame to the next */
#define @NAME@_N_FEATURES @n_features@ /* int8 a frame */
#define @NAME@_FRONTEND_WORK (@n_fft@ + 2 + @n_mels@ + @q16_size@) /* int32 */

#ifdef __cplusplus
extern "C" {
#endif

/* @NAME@_FRAME_LENGTH samples -> @NAME@_N_FEATURES quantized features; `work` keeps nothing between two calls */
void @name@_frame(const int16_t *samples, int32_t *work, int8_t *features);

#ifdef __cplusplus
}
#endif

#endif
