/* SPDX-License-Identifier: Apache-2.0 */
#include "@name@_frontend.h"

#include "@name@_nn_frontend.h"

@frontend_tables@

/* @name@_listen.c, where the folder has one, takes it as well */
extern const @name@_nn_frontend @name@_nn_frontend_tables;
const @name@_nn_frontend @name@_nn_frontend_tables = {
@frontend_members@
};

void @name@_frame(const int16_t *samples, int32_t *work, int8_t *features)
{
    @name@_nn_frontend_frames(&@name@_nn_frontend_tables, samples, 1, work, features);
}
