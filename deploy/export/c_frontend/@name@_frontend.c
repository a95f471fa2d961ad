/* SPDX-License-Identifier: Apache-2.0 */
#include "@name@_frontend.h"

#include "@name@_nn_frontend.h"

@frontend_tables@

static const @name@_nn_frontend frontend = {
@frontend_members@
};

void @name@_frame(const int16_t *samples, int32_t *work, int8_t *features)
{
    int32_t *q16 = work + @NAME@_NN_FRONTEND_WORK(@n_fft@, @n_mels@);
    @name@_nn_frontend_q16(&frontend, samples, @NAME@_NN_PEAK_NONE, work, q16);
    @name@_nn_frontend_quantize(&frontend, q16, features);
}
