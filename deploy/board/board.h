/* SPDX-License-Identifier: Apache-2.0 */
/* What a bare board needs: start, semihosting (files and console of the host) and a clock that counts instructions. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

/* Opens a file of the host for reading, from its beginning; its handle, or -1 */
int board_open(const char *name);

/* Reads up to `size` bytes; how many were read */
uint32_t board_read(int file, void *to, uint32_t size);

void board_print(const char *text);
void board_print_number(int32_t value);

/* A counter of the board: SysTick, or minstret. deploy/boards.py knows how many ticks an instruction takes. */
uint32_t board_ticks(void);
uint32_t board_ticks_since(uint32_t begin);

/* Bytes of the stack that were ever used */
uint32_t board_stack_used(void);

int main(void); /* its result is the exit status of the emulator */

#endif
