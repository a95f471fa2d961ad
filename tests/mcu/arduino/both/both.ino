/* SPDX-License-Identifier: Apache-2.0 */
/* Two libraries in one sketch. Their self-tests are copied beside it, each `main` under a name of its own. */
#include <commands.h>
#include <commands_stream.h>

extern "C" int commands_selftest();
extern "C" int commands_listen();
extern "C" int commands_stream_selftest();
extern "C" int commands_stream_listen();

void setup()
{
    commands_selftest();
    commands_listen();
    commands_stream_selftest();
    commands_stream_listen();
}

void loop() {}
