/* SPDX-License-Identifier: Apache-2.0 */
/* Two libraries in one sketch. Their self-tests are copied beside it, each `main` under a name of its own. */
#include <commands.h>
#include <windows.h>

extern "C" int commands_selftest();
extern "C" int commands_listen();
extern "C" int windows_selftest();
extern "C" int windows_listen();

void setup()
{
    commands_selftest();
    commands_listen();
    windows_selftest();
    windows_listen();
}

void loop() {}
